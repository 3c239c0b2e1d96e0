"""The fast recurrence for CPUs: a network of GRUs or LSTMs run forward, with a gradient of its own.

It takes the weights of Keras's layers and gives their results, in another way: a layer of Keras's runs a generic while loop
and lets the tape record each step. Here
- the input product leaves the loop: one product over all steps, and for the first layer, whose input is one of few
  characters, a table of vocabulary x units for each gate with one row look-up a step;
- the recurrent kernel's gradient is one product over all steps instead of one a step;
- the backward loop multiplies by a kernel transposed once, not by one read across its rows at every step;
- each gate is a tensor of its own, so that nothing is copied to be cut apart or put together;
- the large products may be bfloat16's, where the CPU has them: operands are rounded to it, summed in float32, and the sum
  rounded to it. Weights, gates and states are float32; the products' gradients are float32 tensors holding values rounded
  to the operands' type.

Knows tensors and their published names (see `trainer.artifact`), nothing of Keras.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from trainer.artifact import GATES

Parts = Sequence[tf.Tensor]  # one for each gate, part of a state, or value kept for the way back, each [batch, units]
States = list[tuple[tf.Tensor, ...]]  # for each layer (h,), or an LSTM's (h, c), each float32 [batch, units]


def forward(
    cell: str,
    weights: Mapping[str, tf.Tensor],
    states: States,
    characters: tf.Tensor,
    output_masks: Sequence[tf.Tensor] | None = None,
    operands: tf.DType = tf.float32,
) -> tuple[tf.Tensor, States]:
    """(logits, states after the last step) of a network with these weights, differentiable in weights.

    characters: int32 [batch, steps]. output_masks: each layer's outputs are multiplied by its mask, [batch, units], at every
    step (dropout). operands: the type the products round their operands to. Logits: float32 [batch, steps, vocabulary].
    """
    x, after, characters = weights["embedding"], [], tf.transpose(characters)
    gates, scan = GATES[cell], _scan(CELLS[cell], operands)
    for i, state in enumerate(states):
        bias, recurrent_bias = CELLS[cell].biases(weights[f"rnn.{i}.bias"])
        kernels = tf.split(weights[f"rnn.{i}.kernel"], gates, 1)
        inputs = [_multiply_steps(x, kernel, operands) + part for kernel, part in zip(kernels, tf.split(bias, gates), strict=True)]
        x, *last = scan(characters, weights[f"rnn.{i}.recurrent_kernel"], recurrent_bias, *inputs, *state)
        after.append(tuple(last))
        if output_masks is not None:
            x *= output_masks[i]
    logits = _multiply_steps(x, weights["dense.kernel"], tf.float32) + weights["dense.bias"]
    return tf.transpose(logits, (1, 0, 2)), after


class GRU:
    """Gates in Keras's order z, r, h, the reset applied after the product (`reset_after=True`):

    z = sigmoid(x_z + g_z), r = sigmoid(x_r + g_r), c = tanh(x_h + r * g_h), h' = z * h + (1 - z) * c,
    with g = h @ kernel, and a bias in g_h.
    """

    STATE = 1  # parts of a state: h
    KEPT = 4  # values kept of a step for the way back: z, r, g_h, c

    @staticmethod
    def biases(bias: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Keras's bias [2, 3 * units], input and recurrent, as (x's [3 * units], g_h's [units])."""
        units = bias.shape[1] // 3
        return tf.concat([bias[0, : 2 * units] + bias[1, : 2 * units], bias[0, 2 * units :]], 0), bias[1, 2 * units :]

    @staticmethod
    def step(x: Parts, g: Parts, h: tf.Tensor) -> tuple[Parts, Parts]:
        """(state after, what the way back needs)."""
        z, r = tf.sigmoid(x[0] + g[0]), tf.sigmoid(x[1] + g[1])
        c = tf.tanh(x[2] + r * g[2])
        return [c + z * (h - c)], [z, r, g[2], c]

    @staticmethod
    def back(kept: Parts, before: Parts, d_h: tf.Tensor) -> tuple[Parts, Parts, list[tf.Tensor | None]]:
        """(d_x, d_g, the part of d_state that does not flow through g)."""
        (z, r, g_h, c), (h,) = kept, before
        d_c = d_h * (1 - z) * (1 - c * c)
        d_z = d_h * (h - c) * z * (1 - z)
        d_r = d_c * g_h * r * (1 - r)
        return [d_z, d_r, d_c], [d_z, d_r, d_c * r], [d_h * z]


class LSTM:
    """Gates in Keras's order i, f, c, o: c' = sigmoid(f) * c + sigmoid(i) * tanh(c~), h' = sigmoid(o) * tanh(c')."""

    STATE = 2  # h, c
    KEPT = 5  # i, f, the candidate, o, tanh(c')

    @staticmethod
    def biases(bias: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Keras's bias [4 * units] as (x's, zeros [units] for the candidate's part of g, where a GRU has one)."""
        return bias, tf.zeros_like(bias[: bias.shape[0] // 4])

    @staticmethod
    def step(x: Parts, g: Parts, _h: tf.Tensor, c: tf.Tensor) -> tuple[Parts, Parts]:
        """(state after, what the way back needs)."""
        i, f, o = (tf.sigmoid(x[gate] + g[gate]) for gate in (0, 1, 3))
        candidate = tf.tanh(x[2] + g[2])
        c = f * c + i * candidate
        reached = tf.tanh(c)
        return [o * reached, c], [i, f, candidate, o, reached]

    @staticmethod
    def back(kept: Parts, before: Parts, d_h: tf.Tensor, d_c: tf.Tensor) -> tuple[Parts, Parts, list[tf.Tensor | None]]:
        """(d_x, d_g, the part of d_state that does not flow through g)."""
        i, f, candidate, o, reached = kept
        d_c += d_h * o * (1 - reached * reached)
        d_gates = [
            d_c * candidate * i * (1 - i),
            d_c * before[1] * f * (1 - f),
            d_c * i * (1 - candidate * candidate),
            d_h * reached * o * (1 - o),
        ]
        return d_gates, d_gates, [None, d_c * f]


CELLS: dict[str, type[GRU] | type[LSTM]] = {"gru": GRU, "lstm": LSTM}
CANDIDATE = 2  # which gate it is in either cell


def _scan(cell: type[GRU] | type[LSTM], operands: tf.DType) -> Callable[..., Any]:
    """(characters, kernel, bias, *x, *state) -> (outputs after each step, *state after the last), differentiable.

    kernel: [units, gates * units]; bias: [units], of the candidate's product; x: for each gate the input product with its
    bias, [steps, batch, units], or with characters, int32 [steps, batch], the table to look it up in, [vocabulary, units];
    state: h, or h and c, [batch, units]. Outputs: [steps, batch, units].
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def scan(characters: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, *x_and_state: tf.Tensor) -> Any:
        x, state = x_and_state[: -cell.STATE], list(x_and_state[-cell.STATE :])
        steps, units = tf.shape(characters)[0], kernel.shape[0]
        rounded = tf.cast(kernel, operands)
        tables = x[0].shape.rank == 2

        def array(size: Any, width: int = units, dtype: tf.DType = tf.float32) -> Any:
            return tf.TensorArray(dtype, size, element_shape=[None, width], clear_after_read=False)

        def forward(t: tf.Tensor, state: Any, inputs: Any, states: Any, kept: Any) -> Any:
            h = tf.cast(state[0], operands)
            g = tf.split(_multiply(h, rounded), len(x), 1)
            g[CANDIDATE] += bias
            x_t = [tf.gather(gate, characters[t]) if tables else gate[t] for gate in x]
            state, keep = cell.step(x_t, g, *state)
            return t + 1, state, inputs.write(t, h), _write(states, t + 1, state), _write(kept, t, keep)

        _, last, inputs, states, kept = tf.while_loop(
            lambda t, *_: t < steps,
            forward,
            (
                0,
                state,
                array(steps, dtype=operands),
                _write([array(steps + 1) for _ in state], 0, state),
                [array(steps) for _ in range(cell.KEPT)],
            ),
            maximum_iterations=steps,
        )

        def gradient(d_outputs: tf.Tensor, *d_last: tf.Tensor) -> Any:
            transposed = tf.transpose(rounded)

            def backward(t: tf.Tensor, d_state: Any, d_x: Any, d_g: Any) -> Any:
                d_h, *rest = d_state
                d_x_t, d_g_t, (direct, *rest) = cell.back(_read(kept, t), _read(states, t), d_h + d_outputs[t], *rest)
                d_g_t = tf.concat([tf.cast(gate, operands) for gate in d_g_t], 1)
                d_h = _multiply(d_g_t, transposed)
                return t - 1, [d_h if direct is None else d_h + direct, *rest], _write(d_x, t, d_x_t), d_g.write(t, d_g_t)

            _, d_state, d_x, d_g = tf.while_loop(
                lambda t, *_: t >= 0,
                backward,
                (steps - 1, list(d_last), [array(steps) for _ in x], array(steps, kernel.shape[1], operands)),
                maximum_iterations=steps,
            )
            d_g = tf.reshape(d_g.stack(), [-1, kernel.shape[1]])
            d_kernel = _multiply(tf.reshape(inputs.stack(), [-1, units]), d_g, transpose_a=True)
            # A product, not reduce_sum, which would add up in the operands' type.
            d_candidate = d_g[:, CANDIDATE * units : (CANDIDATE + 1) * units]
            d_bias = _multiply(tf.ones((1, tf.shape(d_g)[0]), operands), d_candidate)[0]
            d_x = [gate.stack() for gate in d_x]
            if tables:
                d_x = [tf.math.unsorted_segment_sum(gate, characters, table.shape[0]) for gate, table in zip(d_x, x, strict=True)]
            return None, d_kernel, d_bias, *d_x, *d_state

        return (states[0].stack()[1:], *last), gradient

    return scan  # type: ignore[no-any-return]


def _read(arrays: Sequence[Any], t: tf.Tensor) -> list[tf.Tensor]:
    return [array.read(t) for array in arrays]


def _write(arrays: Sequence[Any], t: Any, values: Sequence[tf.Tensor]) -> list[Any]:
    return [array.write(t, value) for array, value in zip(arrays, values, strict=True)]


def _multiply(a: tf.Tensor, b: tf.Tensor, **transpose: bool) -> tf.Tensor:
    """a @ b of operands of one type, rounded to that type, as float32."""
    return tf.cast(tf.matmul(a, b, **transpose), tf.float32)


def _multiply_steps(x: tf.Tensor, kernel: tf.Tensor, operands: tf.DType) -> tf.Tensor:
    """x @ kernel over x's last dimension as float32, operands and product rounded to `operands`."""
    return tf.cast(tf.tensordot(tf.cast(x, operands), tf.cast(kernel, operands), 1), tf.float32)
