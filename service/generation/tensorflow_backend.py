"""The backend on TensorFlow, for GPUs. One graph runs the whole loop, sampling included: it advances B slots by K steps.

The embedding and the first layer's kernel are folded into one table [vocabulary, gates * units]. So a step is a table look-up, the
recurrent product, the gates and the output product.

The last bits of TensorFlow's products depend on the batch size, so a text may, rarely, depend on the other rows.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from service.generation.backend import STATES, Batch, Decoded, LogProbabilities, Precision, input_bias, input_table
from service.generation.sampling import EXCLUDED, Sampling
from trainer.artifact import Architecture, Tensors


class TensorFlowBackend:
    """See `service.generation.backend.Backend`. States stay on the device: [slots, states, units]. float32 only."""

    name = "tensorflow"
    arithmetic = "tensorflow"
    precision: Precision = "f32"

    def __init__(self, architecture: Architecture, tensors: Tensors, slots: int) -> None:
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)  # other processes may need the rest of its memory
        tf.config.experimental.enable_tensor_float_32_execution(False)  # it would round float32 inputs of products
        self.slots = slots
        self._architecture = architecture
        self._table = tf.constant(input_table(tensors))
        self._tensors = {name: tf.constant(tensor) for name, tensor in tensors.items()}
        self._states_per_layer = STATES[architecture.cell]
        self._state = tf.Variable(tf.zeros((slots, self._states_per_layer * architecture.layers, architecture.units)))
        # On a CPU a product with a transposed kernel is a fifth faster for one row, and half as fast for many rows.
        kernels = [name for name in tensors if name.startswith("rnn.") and name.endswith("kernel")]
        self._transposed = {} if gpus else {name: tf.constant(np.ascontiguousarray(tensors[name].T)) for name in kernels}
        self._signature = {
            "slots": tf.TensorSpec([None], tf.int32),
            "inputs": tf.TensorSpec([None], tf.int32),
            "forced": tf.TensorSpec([None, None], tf.int32),
            "uniforms": tf.TensorSpec([None, None], tf.float32),
            "snapshot_at": tf.TensorSpec([None], tf.int32),
            "start_rows": tf.TensorSpec([None], tf.int32),
            "start_states": tf.TensorSpec([None, *self._state.shape[1:]], tf.float32),
            "inverse_temperature": tf.TensorSpec([None, 1], tf.float32),
            "bias": tf.TensorSpec([None, len(architecture.vocabulary)], tf.float32),
            "top_k": tf.TensorSpec([None, 1], tf.int32),
            "top_p": tf.TensorSpec([None, 1], tf.float32),
            "min_p": tf.TensorSpec([None, 1], tf.float32),
            "top": tf.TensorSpec([], tf.int32),
        }
        self._graphs: dict[tuple[bool, bool, bool], Any] = {}

    def decode(self, batch: Batch) -> Decoded:
        restricted, wanted = any(row.restricted for row in batch.sampling), batch.top_logprobs is not None
        start_states = np.zeros((len(batch.starts), *self._state.shape[1:]), np.float32)
        for row, state in zip(start_states, batch.starts.values(), strict=True):
            row[:] = 0 if state is None else state
        arrays = vars(batch) | sampling_arrays(batch.sampling, len(self._architecture.vocabulary))
        arrays |= {"start_rows": list(batch.starts), "start_states": start_states, "top": batch.top_logprobs or 0}
        graph = self._graph(restricted, wanted, len(batch.slots) == 1)
        chosen, snapshots, log_probabilities = graph(
            {name: tf.constant(arrays[name], spec.dtype) for name, spec in self._signature.items()}
        )
        return Decoded(
            chosen.numpy(),
            {int(row): snapshots[row].numpy() for row in np.flatnonzero(batch.snapshot_at >= 0)},
            LogProbabilities(*(part.numpy() for part in log_probabilities)) if wanted else None,
        )

    def _graph(self, restricted: bool, log_probabilities: bool, single: bool) -> Any:
        """The loop for any number of steps and rows, with only the parts that these options need. Built at first use.

        Not compiled with XLA: on a CPU it gains a tenth for 64 rows and nothing for one row, and it compiles for each shape.
        """
        key = restricted, log_probabilities, single
        if key not in self._graphs:
            loop = partial(self._loop, restricted=restricted, log_probabilities=log_probabilities, single=single)
            self._graphs[key] = tf.function(loop, input_signature=[self._signature])
        return self._graphs[key]

    def _loop(self, arrays: dict[str, tf.Tensor], *, restricted: bool, log_probabilities: bool, single: bool) -> Any:
        """Returns (chosen ids [K, B], snapshots [B, states, units], the fields of LogProbabilities if requested).

        arrays: see `_signature`. restricted: apply all sampling options, not only the temperature. single: there is one row.
        """
        forced, uniforms, slots = arrays["forced"], arrays["uniforms"], arrays["slots"]
        steps, units = tf.shape(forced)[0], self._architecture.units
        gathered = tf.tensor_scatter_nd_update(tf.gather(self._state, slots), arrays["start_rows"][:, None], arrays["start_states"])
        states = tuple(tf.ensure_shape(state, [None, units]) for state in tf.unstack(gathered, axis=1))

        def advance(k: tf.Tensor, character: tf.Tensor, states: Any, snapshots: Any, stacks: Any) -> Any:
            due = (arrays["snapshot_at"] == k)[:, None]
            snapshots = tuple(tf.where(due, state, before) for state, before in zip(states, snapshots, strict=True))
            states, logits = self._step(character, states, single)
            weights = unnormalized(logits + arrays["bias"] if restricted else logits, arrays["inverse_temperature"])
            if restricted:
                weights = keep_likely(weights, arrays["top_k"], arrays["top_p"], arrays["min_p"])
            character = tf.where(forced[k] >= 0, forced[k], draw(weights, uniforms[k]))
            values = [character, *(log_probabilities_of(logits, character, arrays["top"]) if log_probabilities else [])]
            stacks = tuple(stack.write(k, value) for stack, value in zip(stacks, values, strict=True))
            return k + 1, character, states, snapshots, stacks

        stack = partial(tf.TensorArray, size=steps)
        vectors = [stack(tf.float32, element_shape=[None])] if log_probabilities else []
        matrices = [stack(dtype, element_shape=[None, None]) for dtype in (tf.int32, tf.float32)] if log_probabilities else []
        stacks = (stack(tf.int32, element_shape=[None]), *vectors, *matrices)
        start = 0, arrays["inputs"], states, states, stacks
        _, _, states, snapshots, stacks = tf.while_loop(lambda k, *_: k < steps, advance, start)
        self._state.scatter_nd_update(slots[:, None], tf.stack(states, axis=1))
        chosen, *probabilities = (stack.stack() for stack in stacks)
        return chosen, tf.stack(snapshots, axis=1), tuple(probabilities)

    def _step(self, character: tf.Tensor, states: Sequence[tf.Tensor], single: bool) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """Reads one character a row, [B]. Returns (the next states, each [B, units]; logits [B, vocabulary])."""
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


def sampling_arrays(rows: Sequence[Sampling], vocabulary: int) -> dict[str, NDArray[Any]]:
    """The options of B rows as arrays [B, 1], and `bias` [B, vocabulary], which excludes characters. Defaults exclude nothing."""
    bias = np.zeros((len(rows), vocabulary), np.float32)
    for b, row in enumerate(rows):
        if row.allowed is not None:
            bias[b, ~row.allowed] = EXCLUDED
    return {
        "inverse_temperature": np.array([[row.inverse_temperature] for row in rows], np.float32),
        "bias": bias,
        "top_k": np.array([[vocabulary if row.top_k is None else min(row.top_k, vocabulary)] for row in rows], np.int32),
        # A disabled top_p is 2, because rounding could make 1 exclude the least likely characters. A top_p below
        # 1e-30 could become 0 in float32, which would exclude the most likely character.
        "top_p": np.array([[max(row.top_p, 1e-30) if row.top_p < 1 else 2] for row in rows], np.float32),
        "min_p": np.array([[row.min_p] for row in rows], np.float32),
    }


def gru_step(x: tf.Tensor, g: tf.Tensor, states: Sequence[tf.Tensor], bias: tf.Tensor) -> list[tf.Tensor]:
    """Keras's GRU with reset_after=True (Cho et al. 2014, in cuDNN's form). Returns [the next state].

    x [B, 3 * units]: the input product with its bias. g [B, 3 * units]: the recurrent product. states: [h [B, units]].
    """
    (h,) = states
    x_z, x_r, x_h = tf.split(x, 3, axis=1)
    g_z, g_r, g_h = tf.split(g + bias[1], 3, axis=1)
    z = tf.sigmoid(x_z + g_z)
    candidate = tf.tanh(x_h + tf.sigmoid(x_r + g_r) * g_h)
    return [candidate + z * (h - candidate)]


def lstm_step(x: tf.Tensor, g: tf.Tensor, states: Sequence[tf.Tensor], _bias: tf.Tensor) -> list[tf.Tensor]:
    """Keras's LSTM (Hochreiter & Schmidhuber 1997). x and g as for the GRU, [B, 4 * units]; states: h and c, each [B, units]."""
    _, c = states
    i, f, candidate, o = tf.split(x + g, 4, axis=1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(candidate)
    return [tf.sigmoid(o) * tf.tanh(c), c]


def unnormalized(logits: tf.Tensor, inverse_temperatures: tf.Tensor) -> tf.Tensor:
    """Unnormalized probabilities [B, vocabulary]. The most likely character's is 1."""
    return tf.exp((logits - tf.reduce_max(logits, axis=1, keepdims=True)) * inverse_temperatures)


def keep_likely(weights: tf.Tensor, top_k: tf.Tensor, top_p: tf.Tensor, min_p: tf.Tensor) -> tf.Tensor:
    """Sets the weights to 0 that top_k, top_p and min_p exclude."""
    order = tf.argsort(weights, axis=1, direction="DESCENDING", stable=True)
    descending = tf.gather(weights, order, batch_dims=1)
    descending = tf.where(tf.range(tf.shape(weights)[1])[None] < top_k, descending, 0.0)
    cumulative = tf.cumsum(descending, axis=1)
    nucleus = cumulative - descending < top_p * cumulative[:, -1:]
    kept = tf.where(nucleus & (descending >= min_p * descending[:, :1]), descending, 0.0)
    return tf.gather(kept, tf.argsort(order, axis=1), batch_dims=1)


def draw(weights: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """For each row of weights [B, vocabulary], the first id whose cumulative weight exceeds `uniform` [B] times the total."""
    cdf = tf.cumsum(weights, axis=1)
    # A GPU sums in another order, so the CDF may rise slightly where a weight is 0. Such a character must not be chosen.
    passed = (cdf > uniform[:, None] * cdf[:, -1:]) & (weights > 0)
    return tf.argmax(tf.cast(passed, tf.int32), axis=1, output_type=tf.int32)


def log_probabilities_of(logits: tf.Tensor, chosen: tf.Tensor, top: tf.Tensor) -> list[tf.Tensor]:
    """[Log-probability of the chosen id [B], the N top ids [B, N], their log-probabilities [B, N]]."""
    p = tf.nn.log_softmax(logits)
    values, top_ids = tf.math.top_k(p, tf.minimum(top, tf.shape(p)[1]))
    return [tf.gather(p, chosen, batch_dims=1), top_ids, values]
