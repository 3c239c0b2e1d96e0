"""What the engine asks of a network: advance some slots by some steps. Knows ids and slots, nothing of requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.generation.sampling import History, Sampling
from trainer.artifact import Tensors

Precision = Literal["f32", "int8"]
State = NDArray[np.float32]  # [states, units]: all that a network remembers of a text

STATES = {"gru": 1, "lstm": 2}  # state vectors a layer keeps: h; h and c
LIKELIEST = 20  # most characters that log-probabilities are given for, besides the chosen one


@dataclass(frozen=True)
class Batch:
    """One call: B slots, each advanced by K steps.

    At step k slot b's network takes its input (at first `inputs`, then what the step before chose) and its state; the step
    chooses `forced` where that is not negative, else it samples. So a prompt is read by the call that generates, and a
    text is scored by one that forces all of it.
    """

    slots: NDArray[np.int32]  # [B], distinct
    starts: Mapping[int, State | None]  # rows that do not go on from their slot's state, but from this one; None: zeros
    inputs: NDArray[np.int32]  # [B]
    forced: NDArray[np.int32]  # [K, B], -1 where the step samples
    uniforms: NDArray[np.float32]  # [K, B], in [0, 1); 0 where the temperature is 0
    sampling: Sequence[Sampling]  # B of them
    keep: NDArray[np.int32]  # [B]: steps after which the row's state is wanted besides, below K; -1: not
    log_probabilities: bool = False  # wanted
    histories: Mapping[int, History] = field(default_factory=dict)  # of the rows whose sampling needs one; the call updates them


@dataclass(frozen=True)
class LogProbabilities:
    """Natural logarithms of softmax(logits): what the network itself says, whatever the temperature and what was left out.

    The leading shape is [K, B] for a call and [characters] for a generation; N is LIKELIEST or all the vocabulary has.
    """

    chosen: NDArray[np.float32]  # [...]
    likeliest: NDArray[np.int32]  # [..., N], ids from the likeliest on
    values: NDArray[np.float32]  # [..., N]


@dataclass(frozen=True)
class Decoded:
    """What a call gave."""

    chosen: NDArray[np.int32]  # [K, B]; an automaton's: beyond the vocabulary what only it knows, -1 where it allows nothing
    kept: Mapping[int, State]  # the rows that asked for it
    log_probabilities: LogProbabilities | None  # where asked for


class Decoder(Protocol):
    """A network of a fixed number of slots, each with a state kept from call to call."""

    name: str  # of the backend, as in "native"
    precision: Precision
    arithmetic: str  # decoders of the same give the same text for a version, a request and a seed
    slots: int

    def decode(self, batch: Batch) -> Decoded:
        """Advances the batch's slots.

        A sampled character inverts the CDF of what `Sampling` says at its uniform: the first id whose cumulative
        probability exceeds it. One row's result does not depend on the others.
        """
        ...


def input_table(tensors: Tensors) -> NDArray[np.float32]:
    """Each character's product with the first layer's kernel, its bias added: [vocabulary, gates * units]."""
    return tensors["embedding"] @ tensors["rnn.0.kernel"] + input_bias(tensors["rnn.0.bias"])


def input_bias(bias: NDArray[np.float32]) -> NDArray[np.float32]:
    """The bias that joins the input product: a GRU's first row (its second joins the recurrent product), all of an LSTM's."""
    return bias[0] if bias.ndim == 2 else bias
