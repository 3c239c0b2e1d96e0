"""What the engine asks of a network: advance some slots by some steps. Knows ids and slots, nothing of requests."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.artifact import Tensors

STATES = {"gru": 1, "lstm": 2}  # state vectors a layer keeps: h; h and c


@dataclass(frozen=True)
class Batch:
    """One call: B slots, each advanced by K steps.

    At step k slot b's network takes its input (at first `inputs`, then what the step before chose) and its state; the step
    chooses `forced` where that is not negative, else it samples. So a prompt is read by the call that generates.
    """

    slots: NDArray[np.int32]  # [B], distinct
    fresh: NDArray[np.bool_]  # [B]: the slot starts from a zero state
    inputs: NDArray[np.int32]  # [B]
    forced: NDArray[np.int32]  # [K, B], -1 where the step samples
    uniforms: NDArray[np.float32]  # [K, B], in [0, 1)
    temperatures: NDArray[np.float64]  # [B]; 0 takes the most likely character


class Decoder(Protocol):
    """A network of a fixed number of slots, each with a state kept from call to call."""

    slots: int

    def decode(self, batch: Batch) -> NDArray[np.int32]:
        """The characters chosen, [K, B].

        A sampled one inverts the CDF of softmax(logits / temperature) at its uniform: the first id whose cumulative
        probability exceeds it.
        """
        ...


def input_table(tensors: Tensors) -> NDArray[np.float32]:
    """Each character's product with the first layer's kernel, its bias added: [vocabulary, gates * units]."""
    return tensors["embedding"] @ tensors["rnn.0.kernel"] + input_bias(tensors["rnn.0.bias"])


def input_bias(bias: NDArray[np.float32]) -> NDArray[np.float32]:
    """The bias that joins the input product: a GRU's first row (its second joins the recurrent product), all of an LSTM's."""
    return bias[0] if bias.ndim == 2 else bias


def inverse_temperatures(temperatures: NDArray[np.float64]) -> NDArray[np.float32]:
    """1 / temperature [B, 1], bounded so that float32 logits stay finite; 0 stands for temperature 0."""
    inverse = np.where(temperatures > 0, 1 / np.clip(temperatures, 1e-30, 1e30), 0)
    return inverse.astype(np.float32)[:, None]
