"""The fast recurrence for CPUs: a network of GRUs or LSTMs run forward, with a gradient of its own.

It takes the weights of Keras's layers and gives their results, in another way: a layer of Keras's runs a generic while loop
and lets the tape record each step. Here
- the input product leaves the loop: one for all steps. Where there are fewer characters than the embedding has elements,
  the first layer's is a table of all characters' products, of which one-hot characters pick theirs;
- a kernel's gradient is one product over all steps instead of one a step;
- states lie in columns, [units, rows], and a kernel is a product's left operand: what a product packs anew at each step is
  the small state, not the kernel; and gates are cut apart without copying;
- a large batch runs in parts that know nothing of each other, so that cores need not wait for each other at each operation,
  and a step's gates are one call of XLA's, forward and backward;
- the large products may be bfloat16's, where the CPU has them: operands are rounded to it, summed in float32, and the sum
  rounded to it. So are the layers' outputs and their gradients. Weights, gates, states and logits are float32.

Knows tensors and their published names (see `trainer.artifact`), nothing of Keras.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import tensorflow as tf

from trainer.resources import count_parts

Columns: TypeAlias = tf.Tensor  # a value of each unit for each row, [units, rows]
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
    parts = count_parts(characters.shape[0] or 1)
    logits, after = [], []
    for part in range(parts):

        def cut(rows: tf.Tensor, part: int = part) -> tf.Tensor:
            return tf.transpose(tf.split(rows, parts)[part])

        masks = None if output_masks is None else [cut(mask) for mask in output_masks]
        columns = [tuple(cut(value) for value in state) for state in states]
        part_logits, part_after = _forward(CELLS[cell], weights, columns, cut(characters), masks, operands, compiled=parts > 1)
        logits.append(tf.transpose(part_logits, (2, 0, 1)))
        after.append(part_after)
    layers = zip(*after, strict=True)
    joined = [tuple(tf.transpose(tf.concat(values, 1)) for values in zip(*layer, strict=True)) for layer in layers]
    return tf.concat(logits, 0), joined


def _forward(
    cell: "type[GRU] | type[LSTM]",
    weights: Mapping[str, tf.Tensor],
    states: States,
    characters: tf.Tensor,
    output_masks: Sequence[Columns] | None,
    operands: tf.DType,
    *,
    compiled: bool,
) -> tuple[tf.Tensor, States]:
    """`forward` of a part: characters int32 [steps, rows], states and masks Columns, logits [steps, vocabulary, rows]."""
    embedding, kernel = weights["embedding"], weights["rnn.0.kernel"]
    if embedding.shape[0] <= embedding.shape[1]:
        kernel, x = _multiply(embedding, kernel, operands), tf.one_hot(characters, embedding.shape[0], axis=1, dtype=operands)
    else:
        x = tf.cast(tf.transpose(tf.gather(embedding, characters), (0, 2, 1)), operands)
    scan, after = _scan(cell, operands, compiled=compiled), []
    for i, state in enumerate(states):
        kernel = weights[f"rnn.{i}.kernel"] if i else kernel
        x, *last = scan(x, kernel, weights[f"rnn.{i}.recurrent_kernel"], cell.biases(weights[f"rnn.{i}.bias"]), *state)
        after.append(tuple(last))
        if output_masks is not None:
            x *= tf.cast(output_masks[i], operands)
    return _dense(weights["dense.kernel"], x) + weights["dense.bias"][:, None], after


class GRU:
    """Gates in Keras's order z, r, h, the reset applied after the product (`reset_after=True`):

    z = sigmoid(x_z + g_z), r = sigmoid(x_r + g_r), c = tanh(x_h + r * g_h), h' = z * h + (1 - z) * c,
    with g = h @ kernel, and biases.
    """

    STATE = 1  # parts of a state: h
    KEPT = 5  # values kept of a step for the way back: z, r, g_h, c, h - c
    OF_X = (0, 1, 3)  # which of what has a bias, z, r, g_h and x_h, is x's; the first three are g's

    @staticmethod
    def biases(bias: tf.Tensor) -> tf.Tensor:
        """Keras's bias [2, 3 * units], input and recurrent, as [4 * units, 1]: of z, r, g_h and x_h."""
        (x_z, x_r, x_h), (g_z, g_r, g_h) = (tf.split(part, 3) for part in tf.unstack(bias))
        return tf.concat([x_z + g_z, x_r + g_r, g_h, x_h], 0)[:, None]

    @staticmethod
    def step(
        x: Sequence[Columns], g: Sequence[Columns], bias: Sequence[Columns], h: Columns
    ) -> tuple[list[Columns], list[Columns]]:
        """(state after, what the way back needs)."""
        z, r = tf.sigmoid(x[0] + g[0] + bias[0]), tf.sigmoid(x[1] + g[1] + bias[1])
        g_h = g[2] + bias[2]
        c = tf.tanh(x[2] + bias[3] + r * g_h)
        return [c + z * (h - c)], [z, r, g_h, c, h - c]

    @staticmethod
    def back(kept: Sequence[Columns], d_h: Columns) -> tuple[list[Columns], list[Columns]]:
        """(gradients of what has a bias, the part of the state's gradient that does not flow through g)."""
        z, r, g_h, c, h_c = kept
        d_c = d_h * (1 - z) * (1 - c * c)
        return [d_h * h_c * z * (1 - z), d_c * g_h * r * (1 - r), d_c * r, d_c], [d_h * z]


class LSTM:
    """Gates in Keras's order i, f, c, o: c' = sigmoid(f) * c + sigmoid(i) * tanh(c~), h' = sigmoid(o) * tanh(c')."""

    STATE = 2  # h, c
    KEPT = 6  # i, f, the candidate, o, c, tanh(c')
    OF_X = (0, 1, 2, 3)

    @staticmethod
    def biases(bias: tf.Tensor) -> tf.Tensor:
        """Keras's bias [4 * units] as [4 * units, 1]."""
        return bias[:, None]

    @staticmethod
    def step(
        x: Sequence[Columns], g: Sequence[Columns], bias: Sequence[Columns], _h: Columns, c: Columns
    ) -> tuple[list[Columns], list[Columns]]:
        """(state after, what the way back needs)."""
        i, f, candidate, o = (sum(parts) for parts in zip(x, g, bias, strict=True))
        i, f, candidate, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(candidate), tf.sigmoid(o)
        after = f * c + i * candidate
        reached = tf.tanh(after)
        return [o * reached, after], [i, f, candidate, o, c, reached]

    @staticmethod
    def back(kept: Sequence[Columns], d_h: Columns, d_c: Columns) -> tuple[list[Columns], list[Columns]]:
        """(gradients of what has a bias, the part of the state's gradient that does not flow through g)."""
        i, f, candidate, o, c, reached = kept
        d_c += d_h * o * (1 - reached * reached)
        d_gates = [d_c * candidate * i * (1 - i), d_c * c * f * (1 - f), d_c * i * (1 - candidate * candidate)]
        return [*d_gates, d_h * reached * o * (1 - o)], [tf.zeros_like(d_h), d_c * f]


CELLS: dict[str, type[GRU] | type[LSTM]] = {"gru": GRU, "lstm": LSTM}


@cache
def _gates(cell: type[GRU] | type[LSTM], operands: tf.DType, *, compiled: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(forward, backward) of one step between its products. Cached, so that XLA compiles them once for all layers and parts."""

    def step(x: Columns, g: Columns, bias: tf.Tensor, state: Sequence[Columns]) -> Any:
        units = state[0].shape[0]
        x, g = (_cut(tf.cast(product, tf.float32), units) for product in (x, g))
        state, keep = cell.step(x, g, _cut(bias, units), *state)
        return tf.cast(state[0], operands), state, keep

    def step_back(kept: Sequence[Columns], d_output: Columns, through: Columns, direct: Sequence[Columns]) -> Any:
        d_h = direct[0] + tf.cast(d_output, tf.float32) + tf.cast(through, tf.float32)
        d, direct = cell.back(kept, d_h, *direct[1:])
        return tf.concat([tf.cast(gate, operands) for gate in d], 0), direct

    if compiled:
        step, step_back = (tf.function(function, autograph=False, jit_compile=True) for function in (step, step_back))
    return step, step_back


def _scan(cell: type[GRU] | type[LSTM], operands: tf.DType, *, compiled: bool) -> Callable[..., Any]:
    """(x, kernel, recurrent kernel, bias, *state) -> (outputs after each step, *state after the last), differentiable.

    x: operands [steps, in, rows]; kernels: [in, gates * units] and [units, gates * units]; bias: see the cell's `biases`;
    state: Columns. Outputs: operands [steps, units, rows]. compiled: whether XLA computes the gates.
    """

    step, step_back = _gates(cell, operands, compiled=compiled)  # type: ignore[arg-type]  # mypy: a class is not hashable

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def scan(x: tf.Tensor, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, *state: Columns) -> Any:
        steps, (units, columns), rows = tf.shape(x)[0], recurrent_kernel.shape, state[0].shape[1]
        rounded = tf.cast(recurrent_kernel, operands)
        transposed = tf.transpose(rounded)
        products = tf.matmul(tf.transpose(tf.cast(kernel, operands))[None], x)

        def new_array(size: Any, height: int, dtype: tf.DType) -> Any:
            return tf.TensorArray(dtype, size, element_shape=[height, rows], clear_after_read=False)

        def forward(t: tf.Tensor, h: Columns, state: Any, outputs: Any, kept: Any) -> Any:
            h, state, keep = step(products[t], tf.matmul(transposed, h), bias, state)
            return (
                t + 1,
                h,
                state,
                outputs.write(t + 1, h),
                [array.write(t, value) for array, value in zip(kept, keep, strict=True)],
            )

        h = tf.cast(state[0], operands)
        outputs = new_array(steps + 1, units, operands).write(0, h)
        kept = [new_array(steps, units, tf.float32) for _ in range(cell.KEPT)]
        _, _, last, outputs, kept = tf.while_loop(
            lambda t, *_: t < steps, forward, (0, h, list(state), outputs, kept), maximum_iterations=steps
        )
        outputs = outputs.stack()

        def gradient(d_outputs: tf.Tensor, *d_last: Columns) -> Any:
            def backward(t: tf.Tensor, through: Columns, direct: Any, d: Any) -> Any:
                d_t, direct = step_back([array.read(t) for array in kept], d_outputs[t], through, direct)
                return t - 1, tf.matmul(rounded, d_t[:columns]), direct, d.write(t, d_t)

            d = new_array(steps, bias.shape[0], operands)
            _, through, direct, d = tf.while_loop(
                lambda t, *_: t >= 0, backward, (steps - 1, tf.zeros_like(h), list(d_last), d), maximum_iterations=steps
            )
            d = d.stack()
            d_products, d_side = tf.concat([_cut(d, units, 1)[i] for i in cell.OF_X], 1), _side_by_side(d)
            d_x = tf.matmul(tf.cast(kernel, operands)[None], d_products)
            gates, x_side = _cut(d_side, units), _side_by_side(x)
            d_kernel = tf.concat([_multiply(x_side, gates[i], operands, transpose_b=True) for i in cell.OF_X], 1)
            d_recurrent = _multiply(_side_by_side(outputs[:-1]), d_side[:columns], operands, transpose_b=True)
            # A product with ones: reduce_sum would add up in the operands' type.
            d_bias = _multiply(d_side, tf.ones((tf.shape(d_side)[1], 1)), operands)
            return d_x, d_kernel, d_recurrent, d_bias, direct[0] + tf.cast(through, tf.float32), *direct[1:]

        return (outputs[1:], *last), gradient

    return scan  # type: ignore[no-any-return]


def _cut(gates: tf.Tensor, units: int, axis: int = 0) -> list[tf.Tensor]:
    return tf.split(gates, gates.shape[axis] // units, axis)  # type: ignore[no-any-return]


def _dense(kernel: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """kernel's transpose @ x at each step in float32, [steps, out, rows], for kernel [in, out] and x [steps, in, rows].

    The gradients' operands are rounded to x's type.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def multiply(kernel: tf.Tensor, x: tf.Tensor) -> Any:
        def gradient(d: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            d = tf.cast(d, x.dtype)
            d_kernel = _multiply(_side_by_side(x), _side_by_side(d), x.dtype, transpose_b=True)
            return d_kernel, tf.matmul(tf.cast(kernel, x.dtype)[None], d)

        return tf.matmul(tf.transpose(kernel)[None], tf.cast(x, tf.float32)), gradient

    return multiply(kernel, x)


def _side_by_side(x: tf.Tensor) -> tf.Tensor:
    """[steps, units, rows] as [units, steps * rows]."""
    return tf.reshape(tf.transpose(x, (1, 0, 2)), [x.shape[1], -1])


def _multiply(a: tf.Tensor, b: tf.Tensor, operands: tf.DType, **transpose: bool) -> tf.Tensor:
    """a @ b as float32, operands and product rounded to `operands`."""
    return tf.cast(tf.matmul(tf.cast(a, operands), tf.cast(b, operands), **transpose), tf.float32)
