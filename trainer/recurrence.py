"""The fast recurrence for CPUs: a network of GRUs run forward, with a gradient of its own.

It reads and writes the Keras network's own weights and states and gives Keras's results; only the way there differs.
Keras's layer runs a generic while loop and lets the tape record each step. Here
- the input product leaves the loop: one product over all steps, and for the first layer, whose input is one of few
  characters, a table of vocabulary x 3 * units with one row look-up a step;
- the recurrent kernel's gradient is one product over all steps instead of one a step;
- the backward loop multiplies by a kernel transposed once, not by one read across its rows at every step.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer.network import recurrent_layers


def applies_to(network: keras.Model) -> bool:
    """Whether `logits` can stand in for calling `network`: GRUs only, and no GPU, where cuDNN is faster."""
    grus = all(isinstance(layer, keras.layers.GRU) for layer in recurrent_layers(network))
    return grus and not tf.config.list_physical_devices("GPU")


def logits(network: keras.Model, characters: tf.Tensor) -> tf.Tensor:
    """What `network(characters, training=True)` returns, its states updated alike.

    characters: int32 [batch, steps]. Returns float32 [batch, steps, vocabulary].
    """
    embedding, *grus, dense = network.layers
    x = embedding.embeddings
    for i, gru in enumerate(grus):
        x = tf.tensordot(x, gru.cell.kernel, 1) + gru.cell.bias[0]
        if i == 0:
            x = tf.gather(x, tf.transpose(characters))
        (state,) = gru.states
        x, last = _scan(gru.units)(x, state.value, gru.cell.recurrent_kernel.value, gru.cell.bias[1])
        state.assign(last)
    return tf.transpose(tf.tensordot(x, dense.kernel, 1) + dense.bias, (1, 0, 2))


def _scan(units: int) -> Callable[..., Any]:
    """(x, state, kernel, bias) -> (states after each step, last state), differentiable.

    x: [steps, batch, 3 * units], the input product with its bias; state: [batch, units]; kernel: [units, 3 * units];
    bias: [3 * units]. Gates in Keras's order z, r, h; reset applied after the product (`reset_after=True`):
    z, r = sigmoid(x_zr + g_zr), c = tanh(x_h + r * g_h), h' = z * h + (1 - z) * c with g = h @ kernel + bias.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def scan(x: tf.Tensor, state: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> Any:
        steps = tf.shape(x)[0]
        gate, row = [None, 3 * units], [None, units]
        states = tf.TensorArray(tf.float32, steps + 1, element_shape=row, clear_after_read=False).write(0, state)
        gates = tf.TensorArray(tf.float32, steps, element_shape=gate)  # z, r and g_h
        candidates = tf.TensorArray(tf.float32, steps, element_shape=row)

        def forward(t: tf.Tensor, h: tf.Tensor, states: Any, gates: Any, candidates: Any) -> Any:
            g = tf.matmul(h, kernel) + bias
            zr = tf.sigmoid(x[t, :, : 2 * units] + g[:, : 2 * units])
            z, r = zr[:, :units], zr[:, units:]
            candidate = tf.tanh(x[t, :, 2 * units :] + r * g[:, 2 * units :])
            h = candidate + z * (h - candidate)
            gates = gates.write(t, tf.concat([zr, g[:, 2 * units :]], 1))
            return t + 1, h, states.write(t + 1, h), gates, candidates.write(t, candidate)

        _, last, states, gates, candidates = tf.while_loop(
            lambda t, *_: t < steps, forward, (0, state, states, gates, candidates), maximum_iterations=steps
        )
        states, gates, candidates = states.stack(), gates.stack(), candidates.stack()

        def gradient(d_states: tf.Tensor, d_last: tf.Tensor) -> Any:
            transposed = tf.transpose(kernel)
            d_gates = tf.TensorArray(tf.float32, steps, element_shape=gate)  # with respect to g
            d_candidates = tf.TensorArray(tf.float32, steps, element_shape=row)  # with respect to tanh's argument

            def backward(t: tf.Tensor, d_h: tf.Tensor, d_gates: Any, d_candidates: Any) -> Any:
                d_h = d_h + d_states[t]
                z, r, g_h = tf.split(gates[t], 3, 1)
                candidate = candidates[t]
                d_c = d_h * (1 - z) * (1 - candidate * candidate)
                d_z = d_h * (states[t] - candidate) * z * (1 - z)
                d_r = d_c * g_h * r * (1 - r)
                d_g = tf.concat([d_z, d_r, d_c * r], 1)
                d_h = d_h * z + tf.matmul(d_g, transposed)
                return t - 1, d_h, d_gates.write(t, d_g), d_candidates.write(t, d_c)

            _, d_state, d_gates, d_candidates = tf.while_loop(
                lambda t, *_: t >= 0, backward, (steps - 1, d_last, d_gates, d_candidates), maximum_iterations=steps
            )
            d_gates, d_candidates = d_gates.stack(), d_candidates.stack()
            d_kernel = tf.matmul(tf.reshape(states[:-1], [-1, units]), tf.reshape(d_gates, [-1, 3 * units]), transpose_a=True)
            d_x = tf.concat([d_gates[:, :, : 2 * units], d_candidates], 2)
            return d_x, d_state, d_kernel, tf.reduce_sum(d_gates, [0, 1])

        return (states[1:], last), gradient

    return scan  # type: ignore[no-any-return]
