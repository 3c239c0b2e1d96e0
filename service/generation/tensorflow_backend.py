"""The backend on TensorFlow, for GPUs: the whole loop, sampling included, in one graph that advances B slots by K steps.

Embedding and input kernel are folded into one table of vocabulary x gates * units, so a step is a row look-up, one product
with the recurrent kernel, the gates, and the output product.

TensorFlow's products differ in the last bits with the batch size, so a text may, rarely, depend on how many others run.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from service.generation.backend import (
    MAX_TOP_LOGPROBS,
    STATES,
    Batch,
    Decoded,
    LogProbabilities,
    Precision,
    input_bias,
    input_table,
)
from service.generation.sampling import SamplingArrays
from trainer.artifact import Architecture, Tensors


class TensorFlowBackend:
    """See `service.generation.backend.Backend`. States are on the device, [slots, states, units]; float32 only."""

    name = "tensorflow"
    arithmetic = "tensorflow"
    precision: Precision = "f32"

    def __init__(self, architecture: Architecture, tensors: Tensors, slots: int) -> None:
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)  # others may need the rest of it
        tf.config.experimental.enable_tensor_float_32_execution(False)  # it would round what is said to be float32
        self.slots = slots
        self._architecture = architecture
        self._table = tf.constant(input_table(tensors))
        self._tensors = {name: tf.constant(tensor) for name, tensor in tensors.items()}
        self._states_per_layer = STATES[architecture.cell]
        self._state = tf.Variable(tf.zeros((slots, self._states_per_layer * architecture.layers, architecture.units)))
        # On a CPU one row's product is a fifth faster with the kernel transposed, that of many rows half as fast.
        kernels = [name for name in tensors if name.startswith("rnn.") and name.endswith("kernel")]
        self._transposed = {} if gpus else {name: tf.constant(np.ascontiguousarray(tensors[name].T)) for name in kernels}
        self._inputs = {  # of `_loop`, in its order
            "slots": tf.TensorSpec([None], tf.int32),
            "inputs": tf.TensorSpec([None], tf.int32),
            "forced": tf.TensorSpec([None, None], tf.int32),
            "uniforms": tf.TensorSpec([None, None], tf.float32),
            "keep": tf.TensorSpec([None], tf.int32),
            "rows": tf.TensorSpec([None], tf.int32),
            "starts": tf.TensorSpec([None, *self._state.shape[1:]], tf.float32),
            "inverse_temperatures": tf.TensorSpec([None, 1], tf.float32),
            "bias": tf.TensorSpec([None, len(architecture.vocabulary)], tf.float32),
            "top_k": tf.TensorSpec([None, 1], tf.int32),
            "top_p": tf.TensorSpec([None, 1], tf.float32),
            "min_p": tf.TensorSpec([None, 1], tf.float32),
        }
        self._graphs: dict[tuple[bool, bool, bool], Any] = {}

    def decode(self, batch: Batch) -> Decoded:
        restricted, wanted = any(row.restricted for row in batch.sampling), batch.log_probabilities
        starts = np.zeros((len(batch.starts), *self._state.shape[1:]), np.float32)
        for start, state in zip(starts, batch.starts.values(), strict=True):
            start[:] = 0 if state is None else state
        arguments = {
            "slots": batch.slots,
            "inputs": batch.inputs,
            "forced": batch.forced,
            "uniforms": batch.uniforms,
            "keep": batch.snapshot_at,
            "rows": list(batch.starts),
            "starts": starts,
            **vars(SamplingArrays.of(batch.sampling, len(self._architecture.vocabulary))),
        }
        chosen, copies, log_probabilities = self._graph(restricted, wanted, len(batch.slots) == 1)(
            *(tf.constant(arguments[name], spec.dtype) for name, spec in self._inputs.items())
        )
        return Decoded(
            chosen.numpy(),
            {int(row): copies[row].numpy() for row in np.flatnonzero(batch.snapshot_at >= 0)},
            LogProbabilities(*(part.numpy() for part in log_probabilities)) if wanted else None,
        )

    def _graph(self, restricted: bool, log_probabilities: bool, single: bool) -> Any:
        """The loop for any number of steps and rows, with what is needed and no more; built when it is first needed.

        Not compiled with XLA: on a CPU that gains a tenth for 64 rows and nothing for one, and costs a compilation per shape.
        """
        key = restricted, log_probabilities, single
        if key not in self._graphs:
            loop = partial(self._loop, restricted=restricted, log_probabilities=log_probabilities, single=single)
            self._graphs[key] = tf.function(loop, input_signature=list(self._inputs.values()))
        return self._graphs[key]

    def _loop(
        self,
        slots: tf.Tensor,
        inputs: tf.Tensor,
        forced: tf.Tensor,
        uniforms: tf.Tensor,
        keep: tf.Tensor,
        rows: tf.Tensor,
        starts: tf.Tensor,
        inverse_temperatures: tf.Tensor,
        bias: tf.Tensor,
        top_k: tf.Tensor,
        top_p: tf.Tensor,
        min_p: tf.Tensor,
        *,
        restricted: bool,
        log_probabilities: bool,
        single: bool,
    ) -> Any:
        steps, units = tf.shape(forced)[0], self._architecture.units
        gathered = tf.tensor_scatter_nd_update(tf.gather(self._state, slots), rows[:, None], starts)
        states = tuple(tf.ensure_shape(state, [None, units]) for state in tf.unstack(gathered, axis=1))

        def advance(k: tf.Tensor, character: tf.Tensor, states: Any, copies: Any, stacks: Any) -> Any:
            copies = tuple(tf.where((keep == k)[:, None], s, copy) for s, copy in zip(states, copies, strict=True))
            states, logits = self._step(character, states, single)
            weights = unnormalized(logits + bias if restricted else logits, inverse_temperatures)
            if restricted:
                weights = kept_weights(weights, top_k, top_p, min_p)
            character = tf.where(forced[k] >= 0, forced[k], draw(weights, uniforms[k]))
            values = [character, *(log_probabilities_of(logits, character) if log_probabilities else [])]
            stacks = tuple(stack.write(k, value) for stack, value in zip(stacks, values, strict=True))
            return k + 1, character, states, copies, stacks

        stack = partial(tf.TensorArray, size=steps)
        vectors = [stack(tf.float32, element_shape=[None])] if log_probabilities else []
        matrices = [stack(dtype, element_shape=[None, None]) for dtype in (tf.int32, tf.float32)] if log_probabilities else []
        stacks = (stack(tf.int32, element_shape=[None]), *vectors, *matrices)
        _, _, states, copies, stacks = tf.while_loop(lambda k, *_: k < steps, advance, (0, inputs, states, states, stacks))
        self._state.scatter_nd_update(slots[:, None], tf.stack(states, axis=1))
        chosen, *probabilities = (stack.stack() for stack in stacks)
        return chosen, tf.stack(copies, axis=1), tuple(probabilities)

    def _step(self, character: tf.Tensor, states: Sequence[tf.Tensor], single: bool) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """(character [B], states of all layers [B, units]) -> (states, logits [B, vocabulary])."""
        cell = gru_step if self._architecture.cell == "gru" else lstm_step
        x, after = tf.gather(self._table, character), list[tf.Tensor]()
        for i in range(self._architecture.layers):
            bias, first = self._tensors[f"rnn.{i}.bias"], self._states_per_layer * i
            if i > 0:
                x = self._product(x, f"rnn.{i}.kernel", single) + input_bias(bias)
            g = self._product(states[first], f"rnn.{i}.recurrent_kernel", single)
            after += cell(x, g, states[first : first + self._states_per_layer], bias)
            x = after[first]
        return tuple(after), tf.matmul(x, self._tensors["dense.kernel"]) + self._tensors["dense.bias"]

    def _product(self, x: tf.Tensor, kernel: str, single: bool) -> tf.Tensor:
        if single and kernel in self._transposed:
            return tf.matmul(x, self._transposed[kernel], transpose_b=True)
        return tf.matmul(x, self._tensors[kernel])


def gru_step(x: tf.Tensor, g: tf.Tensor, states: Sequence[tf.Tensor], bias: tf.Tensor) -> list[tf.Tensor]:
    """Keras's GRU with reset_after=True (Cho et al. 2014, in cuDNN's form).

    x [B, 3 * units]: the input product and its bias; g [B, 3 * units]: the recurrent product; state [B, units].
    """
    (h,) = states
    x_z, x_r, x_h = tf.split(x, 3, axis=1)
    g_z, g_r, g_h = tf.split(g + bias[1], 3, axis=1)
    z = tf.sigmoid(x_z + g_z)
    candidate = tf.tanh(x_h + tf.sigmoid(x_r + g_r) * g_h)
    return [candidate + z * (h - candidate)]


def lstm_step(x: tf.Tensor, g: tf.Tensor, states: Sequence[tf.Tensor], _bias: tf.Tensor) -> list[tf.Tensor]:
    """Keras's LSTM (Hochreiter & Schmidhuber 1997): x and g as for the GRU, [B, 4 * units]; states h and c [B, units]."""
    _, c = states
    i, f, candidate, o = tf.split(x + g, 4, axis=1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(candidate)
    return [tf.sigmoid(o) * tf.tanh(c), c]


def unnormalized(logits: tf.Tensor, inverse_temperatures: tf.Tensor) -> tf.Tensor:
    """The characters' probabilities but for a factor, [B, vocabulary]: the likeliest has 1."""
    return tf.exp((logits - tf.reduce_max(logits, axis=1, keepdims=True)) * inverse_temperatures)


def kept_weights(weights: tf.Tensor, top_k: tf.Tensor, top_p: tf.Tensor, min_p: tf.Tensor) -> tf.Tensor:
    """The weights with 0 for what top_k, top_p and min_p leave out."""
    order = tf.argsort(weights, axis=1, direction="DESCENDING", stable=True)
    descending = tf.gather(weights, order, batch_dims=1)
    descending = tf.where(tf.range(tf.shape(weights)[1])[None] < top_k, descending, 0.0)
    cumulative = tf.cumsum(descending, axis=1)
    nucleus = cumulative - descending < top_p * cumulative[:, -1:]
    kept = tf.where(nucleus & (descending >= min_p * descending[:, :1]), descending, 0.0)
    return tf.gather(kept, tf.argsort(order, axis=1), batch_dims=1)


def draw(weights: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """One id a row [B]: the first whose cumulative row of the weights [B, vocabulary] exceeds the uniform [B]."""
    cdf = tf.cumsum(weights, axis=1)
    # A GPU sums in another order, so the CDF may rise a little where a weight is 0: such a character must not be drawn.
    passed = (cdf > uniform[:, None] * cdf[:, -1:]) & (weights > 0)
    return tf.argmax(tf.cast(passed, tf.int32), axis=1, output_type=tf.int32)


def log_probabilities_of(logits: tf.Tensor, chosen: tf.Tensor) -> list[tf.Tensor]:
    """Of the chosen [B]; the N likeliest [B, N]; of these [B, N]."""
    p = tf.nn.log_softmax(logits)
    values, likeliest = tf.math.top_k(p, tf.minimum(MAX_TOP_LOGPROBS, tf.shape(p)[1]))
    return [tf.gather(p, chosen, batch_dims=1), likeliest, values]
