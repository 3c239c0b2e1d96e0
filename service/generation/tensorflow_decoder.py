"""The decoder on TensorFlow: the whole loop, sampling included, in one graph that advances B slots by K steps.

Embedding and input kernel are folded into one table of vocabulary x gates * units, so a step is a row look-up, one product
with the recurrent kernel, the gates, and the output product.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from service.generation.decoder import STATES, Batch, input_bias, input_table, inverse_temperatures
from trainer.artifact import Architecture, Tensors


class TensorFlowDecoder:
    """See `service.generation.decoder.Decoder`. States lie on the device, [slots, states, units]."""

    def __init__(self, architecture: Architecture, tensors: Tensors, slots: int) -> None:
        self.slots = slots
        self._architecture = architecture
        self._table = tf.constant(input_table(tensors))
        self._layers = [
            {name: tensors[f"rnn.{i}.{name}"] for name in ("kernel", "recurrent_kernel", "bias")}
            for i in range(architecture.layers)
        ]
        self._dense, self._dense_bias = tf.constant(tensors["dense.kernel"]), tf.constant(tensors["dense.bias"])
        self._states_per_layer = STATES[architecture.cell]
        self._state = tf.Variable(tf.zeros((slots, self._states_per_layer * architecture.layers, architecture.units)))
        self._run = tf.function(
            self._loop,
            input_signature=[
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None], tf.bool),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None, None], tf.int32),
                tf.TensorSpec([None, None], tf.float32),
                tf.TensorSpec([None, 1], tf.float32),
            ],
        )

    def decode(self, batch: Batch) -> NDArray[np.int32]:
        chosen = self._run(
            batch.slots, batch.fresh, batch.inputs, batch.forced, batch.uniforms, inverse_temperatures(batch.temperatures)
        )
        return chosen.numpy()  # type: ignore[no-any-return]

    def _loop(
        self,
        slots: tf.Tensor,
        fresh: tf.Tensor,
        inputs: tf.Tensor,
        forced: tf.Tensor,
        uniforms: tf.Tensor,
        inverse_temperature: tf.Tensor,
    ) -> tf.Tensor:
        steps, units = tf.shape(forced)[0], self._architecture.units
        kept = tf.where(fresh[:, None, None], 0.0, tf.gather(self._state, slots))
        states = tuple(tf.ensure_shape(state, [None, units]) for state in tf.unstack(kept, axis=1))

        def advance(k: tf.Tensor, character: tf.Tensor, states: Sequence[tf.Tensor], chosen: Any) -> Any:
            states, logits = self._step(character, states)
            sampled = sample(logits, uniforms[k], inverse_temperature)
            character = tf.where(forced[k] >= 0, forced[k], sampled)
            return k + 1, character, states, chosen.write(k, character)

        chosen = tf.TensorArray(tf.int32, steps, element_shape=[None])
        _, _, states, chosen = tf.while_loop(lambda k, *_: k < steps, advance, (0, inputs, states, chosen))
        self._state.scatter_nd_update(slots[:, None], tf.stack(states, axis=1))
        return chosen.stack()

    def _step(self, character: tf.Tensor, states: Sequence[tf.Tensor]) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """(character [B], states of all layers [B, units]) -> (states, logits [B, vocabulary])."""
        step = gru_step if self._architecture.cell == "gru" else lstm_step
        x, after = tf.gather(self._table, character), list[tf.Tensor]()
        bounds = range(0, len(states) + 1, self._states_per_layer)
        for i, (layer, (start, stop)) in enumerate(zip(self._layers, pairwise(bounds), strict=True)):
            if i > 0:
                x = tf.matmul(x, layer["kernel"]) + input_bias(layer["bias"])
            after += step(x, states[start:stop], layer["recurrent_kernel"], layer["bias"])
            x = after[start]
        return tuple(after), tf.matmul(x, self._dense) + self._dense_bias


def gru_step(x: tf.Tensor, states: Sequence[tf.Tensor], recurrent_kernel: tf.Tensor, bias: tf.Tensor) -> list[tf.Tensor]:
    """Keras's GRU with reset_after=True (Cho et al. 2014, in cuDNN's form): x [B, 3 * units] with its bias, state [B, units]."""
    (h,) = states
    x_z, x_r, x_h = tf.split(x, 3, axis=1)
    g_z, g_r, g_h = tf.split(tf.matmul(h, recurrent_kernel) + bias[1], 3, axis=1)
    z = tf.sigmoid(x_z + g_z)
    candidate = tf.tanh(x_h + tf.sigmoid(x_r + g_r) * g_h)
    return [candidate + z * (h - candidate)]


def lstm_step(x: tf.Tensor, states: Sequence[tf.Tensor], recurrent_kernel: tf.Tensor, _bias: tf.Tensor) -> list[tf.Tensor]:
    """Keras's LSTM (Hochreiter & Schmidhuber 1997): x [B, 4 * units] with its bias; states h and c, each [B, units]."""
    h, c = states
    i, f, candidate, o = tf.split(x + tf.matmul(h, recurrent_kernel), 4, axis=1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(candidate)
    return [tf.sigmoid(o) * tf.tanh(c), c]


def sample(logits: tf.Tensor, uniform: tf.Tensor, inverse_temperature: tf.Tensor) -> tf.Tensor:
    """One id a row: logits [B, V], uniform [B], inverse_temperature [B, 1], 0 for the most likely one."""
    likeliest = tf.argmax(logits, axis=1, output_type=tf.int32)
    weights = tf.exp((logits - tf.reduce_max(logits, axis=1, keepdims=True)) * inverse_temperature)
    cdf = tf.cumsum(weights, axis=1)
    below = tf.reduce_sum(tf.cast(cdf <= uniform[:, None] * cdf[:, -1:], tf.int32), axis=1)
    sampled = tf.minimum(below, tf.shape(logits)[1] - 1)
    return tf.where(inverse_temperature[:, 0] > 0, sampled, likeliest)
