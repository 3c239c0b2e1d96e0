"""The fast recurrence for CPUs: a network of GRUs or LSTMs run forward, with a gradient of its own.

It takes the weights of Keras's layers and gives their results; only the way there differs. Keras's layer runs a generic
while loop and lets the tape record each step. Here
- the input product leaves the loop: one product over all steps, and for the first layer, whose input is one of few
  characters, a table of vocabulary x gates with one row look-up a step;
- the recurrent kernel's gradient is one product over all steps instead of one a step;
- the backward loop multiplies by a kernel transposed once, not by one read across its rows at every step;
- the large products may be bfloat16's, where the CPU has them: operands are rounded to it, summed in float32, and the sum
  rounded to it. Weights, gates, states and gradients are float32.

Knows tensors and their published names (see `trainer.artifact`), nothing of Keras.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

States = list[tuple[tf.Tensor, ...]]  # for each layer (h,), or an LSTM's (h, c), each float32 [batch, units]


def forward(
    cell: str,
    weights: Mapping[str, tf.Tensor],
    states: States,
    characters: tf.Tensor,
    outputs: Sequence[tf.Tensor] | None = None,
    operands: tf.DType = tf.float32,
) -> tuple[tf.Tensor, States]:
    """(logits, states after the last step) of a network with these weights, differentiable in weights.

    characters: int32 [batch, steps]. outputs: for each layer what its outputs are multiplied by at every step, [batch,
    units] (dropout). operands: the type the products round their operands to. Returns float32 [batch, steps, vocabulary].
    """
    x, after = weights["embedding"], []
    scan = _scan(CELLS[cell], operands)
    for i, state in enumerate(states):
        bias = weights[f"rnn.{i}.bias"]
        if cell == "gru":  # an input and a recurrent bias; an LSTM's one goes with the input
            bias, recurrent_bias = bias[0], bias[1]
        else:
            recurrent_bias = tf.zeros_like(bias)
        x = _over_steps(x, weights[f"rnn.{i}.kernel"], operands) + bias
        if i == 0:
            x = tf.gather(x, tf.transpose(characters))
        x, *last = scan(x, weights[f"rnn.{i}.recurrent_kernel"], recurrent_bias, *state)
        after.append(tuple(last))
        if outputs is not None:
            x *= outputs[i]
    logits = _over_steps(x, weights["dense.kernel"], tf.float32) + weights["dense.bias"]
    return tf.transpose(logits, (1, 0, 2)), after


class GRU:
    """Gates in Keras's order z, r, h, the reset applied after the product (`reset_after=True`):

    z, r = sigmoid(x_zr + g_zr), c = tanh(x_h + r * g_h), h' = z * h + (1 - z) * c, with g = h @ kernel + bias.
    """

    @staticmethod
    def step(x: tf.Tensor, g: tf.Tensor, h: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """(state after, what the way back needs: z, r, g_h and c, [batch, 4 * units])."""
        units = h.shape[-1]
        zr = tf.sigmoid(x[:, : 2 * units] + g[:, : 2 * units])
        z, r = zr[:, :units], zr[:, units:]
        c = tf.tanh(x[:, 2 * units :] + r * g[:, 2 * units :])
        return (c + z * (h - c),), tf.concat([zr, g[:, 2 * units :], c], 1)

    @staticmethod
    def back(kept: tf.Tensor, before: Sequence[tf.Tensor], _after: Sequence[tf.Tensor], d_h: tf.Tensor) -> Any:
        """Gradients (of x, of g, of the state before but for the part through g)."""
        (h,) = before
        z, r, g_h, c = tf.split(kept, 4, 1)
        d_c = d_h * (1 - z) * (1 - c * c)
        d_z = d_h * (h - c) * z * (1 - z)
        d_r = d_c * g_h * r * (1 - r)
        return tf.concat([d_z, d_r, d_c], 1), tf.concat([d_z, d_r, d_c * r], 1), (d_h * z,)

    @staticmethod
    def through_product(d_x: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        """The gradient of g from that of x, for all steps at once."""
        units = d_x.shape[-1] // 3
        return tf.concat([d_x[..., : 2 * units], d_x[..., 2 * units :] * kept[..., units : 2 * units]], -1)


class LSTM:
    """Gates in Keras's order i, f, c, o: c' = sigmoid(f) * c + sigmoid(i) * tanh(c~), h' = sigmoid(o) * tanh(c')."""

    @staticmethod
    def step(x: tf.Tensor, g: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """(state after, what the way back needs: i, f, c~ and o, [batch, 4 * units])."""
        units = h.shape[-1]
        gates = x + g
        i_f, candidate, o = gates[:, : 2 * units], gates[:, 2 * units : 3 * units], gates[:, 3 * units :]
        i_f, candidate, o = tf.sigmoid(i_f), tf.tanh(candidate), tf.sigmoid(o)
        c = i_f[:, units:] * c + i_f[:, :units] * candidate
        return (o * tf.tanh(c), c), tf.concat([i_f, candidate, o], 1)

    @staticmethod
    def back(kept: tf.Tensor, before: Sequence[tf.Tensor], after: Sequence[tf.Tensor], d_h: tf.Tensor, d_c: tf.Tensor) -> Any:
        """Gradients (of x, of g, of the state before but for the part through g)."""
        i, f, candidate, o = tf.split(kept, 4, 1)
        reached = tf.tanh(after[1])
        d_c = d_c + d_h * o * (1 - reached * reached)
        d_gates = tf.concat(
            [
                d_c * candidate * i * (1 - i),
                d_c * before[1] * f * (1 - f),
                d_c * i * (1 - candidate * candidate),
                d_h * reached * o * (1 - o),
            ],
            1,
        )
        return d_gates, d_gates, (None, d_c * f)

    @staticmethod
    def through_product(d_x: tf.Tensor, _kept: tf.Tensor) -> tf.Tensor:
        return d_x


CELLS = {"gru": GRU, "lstm": LSTM}


def _scan(cell: Any, operands: tf.DType) -> Callable[..., Any]:
    """(x, kernel, bias, *state) -> (outputs after each step, *state after the last), differentiable.

    x: [steps, batch, gates * units], the input product with its bias; kernel: [units, gates * units]; bias: [gates *
    units]; state: h, or h and c, [batch, units]. Outputs: [steps, batch, units].
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def scan(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, *state: tf.Tensor) -> Any:
        steps, units, columns = tf.shape(x)[0], kernel.shape[0], kernel.shape[1]
        rounded = tf.cast(kernel, operands)

        def array(size: Any, width: int) -> Any:
            return tf.TensorArray(tf.float32, size, element_shape=[None, width], clear_after_read=False)

        def forward(t: tf.Tensor, state: Any, states: Any, kept: Any) -> Any:
            g = _product(state[0], rounded) + bias
            state, keep = cell.step(x[t], g, *state)
            return t + 1, state, [s.write(t + 1, value) for s, value in zip(states, state, strict=True)], kept.write(t, keep)

        states = [array(steps + 1, units).write(0, first) for first in state]
        _, last, states, kept = tf.while_loop(
            lambda t, *_: t < steps, forward, (0, state, states, array(steps, 4 * units)), maximum_iterations=steps
        )
        states, kept = [s.stack() for s in states], kept.stack()

        def gradient(d_outputs: tf.Tensor, *d_last: tf.Tensor) -> Any:
            transposed = tf.transpose(rounded)

            def backward(t: tf.Tensor, d_state: Any, d_x: Any) -> Any:
                d_h, *rest = d_state
                before, after = [s[t] for s in states], [s[t + 1] for s in states]
                d_x_t, d_g, (direct, *rest) = cell.back(kept[t], before, after, d_h + d_outputs[t], *rest)
                d_h = _product(d_g, transposed)
                return t - 1, (d_h if direct is None else d_h + direct, *rest), d_x.write(t, d_x_t)

            _, d_state, d_x = tf.while_loop(
                lambda t, *_: t >= 0, backward, (steps - 1, d_last, array(steps, columns)), maximum_iterations=steps
            )
            d_x = d_x.stack()
            d_g = tf.reshape(cell.through_product(d_x, kept), [-1, columns])
            inputs = tf.cast(tf.reshape(states[0][:-1], [-1, units]), operands)
            d_kernel = _product(inputs, tf.cast(d_g, operands), transpose_a=True)
            return d_x, d_kernel, tf.reduce_sum(d_g, 0), *d_state

        return (states[0][1:], *last), gradient

    return scan  # type: ignore[no-any-return]


def _product(a: tf.Tensor, b: tf.Tensor, **transpose: bool) -> tf.Tensor:
    """a @ b as float32, a and the product rounded to b's type."""
    return tf.cast(tf.matmul(tf.cast(a, b.dtype), b, **transpose), tf.float32)


def _over_steps(x: tf.Tensor, kernel: tf.Tensor, operands: tf.DType) -> tf.Tensor:
    """x @ kernel over x's last dimension as float32, operands and product rounded."""
    return tf.cast(tf.tensordot(tf.cast(x, operands), tf.cast(kernel, operands), 1), tf.float32)
