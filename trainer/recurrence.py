"""A fast recurrence for CPUs: GRU and LSTM networks with a gradient of their own.

It takes the weights of Keras's layers and computes the same results faster. Keras's layers run a generic while loop, and the
gradient tape records each step. Here
- the input product is outside the loop: one product for all steps. If the vocabulary is smaller than the embedding, the first
  layer's input product is a table of all characters' products, and one-hot characters select its columns;
- the gradient of a kernel is one product over all steps instead of one product per step;
- states are columns, [units, rows], and a kernel is the left operand of a product. So each step packs the small state anew, not
  the kernel, and the gates are split without copying;
- a large batch is split into shards of rows. They are independent, so the cores do not wait for each other at each operation. XLA
  compiles the gates of a step to one call, forward and backward;
- the large products can be in bfloat16 on CPUs that have it: operands are rounded to it, summed in float32, and the sum is rounded
  to it. The layers' outputs and their gradients are rounded too. Weights, gates, states and logits are float32.

It knows tensors by their published names (see `trainer.artifact`), but not Keras.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import tensorflow as tf

from trainer.resources import count_row_shards

Columns: TypeAlias = tf.Tensor  # a value of each unit for each row, [units, rows]
States = list[tuple[tf.Tensor, ...]]  # for each layer (h,), or (h, c) of an LSTM, each float32 [batch, units]


def forward(
    cell: str,
    weights: Mapping[str, tf.Tensor],
    states: States,
    characters: tf.Tensor,
    output_masks: Sequence[tf.Tensor] | None = None,
    operands: tf.DType = tf.float32,
) -> tuple[tf.Tensor, States]:
    """(logits, states after the last step) of a network with these weights. Differentiable with respect to the weights.

    characters: int32 [batch, steps]. output_masks: for each layer a mask [batch, units] that its outputs are multiplied by at
    every step (dropout). operands: the type that the products round their operands to. Logits: float32 [batch, steps, vocabulary].
    """
    shards = count_row_shards(characters.shape[0] or 1)
    logits, after = [], []
    for shard in range(shards):

        def cut(rows: tf.Tensor, shard: int = shard) -> tf.Tensor:
            return tf.transpose(tf.split(rows, shards)[shard])

        masks = None if output_masks is None else [cut(mask) for mask in output_masks]
        columns = [tuple(cut(value) for value in state) for state in states]
        compiled = shards > 1
        shard_logits, shard_after = _forward(CELLS[cell], weights, columns, cut(characters), masks, operands, compiled=compiled)
        logits.append(tf.transpose(shard_logits, (2, 0, 1)))
        after.append(shard_after)
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
    """`forward` of a shard: characters int32 [steps, rows], states and masks Columns, logits [steps, vocabulary, rows]."""
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
    """Gates in Keras's order z, r, h. The reset gate is applied after the product (`reset_after=True`):

    z = sigmoid(x_z + g_z), r = sigmoid(x_r + g_r), c = tanh(x_h + r * g_h), h' = z * h + (1 - z) * c,
    with g = h @ kernel, and biases.
    """

    STATE = 1  # parts of a state: h
    KEPT = 5  # values of a step that the backward pass needs: z, r, g_h, c, h - c
    OF_X = (0, 1, 3)  # of the values with a bias, z, r, g_h and x_h, those that get a part of x; the first three get a part of g

    @staticmethod
    def biases(bias: tf.Tensor) -> tf.Tensor:
        """Keras's bias [2, 3 * units], input and recurrent, as [4 * units, 1]: for z, r, g_h and x_h."""
        (x_z, x_r, x_h), (g_z, g_r, g_h) = (tf.split(part, 3) for part in tf.unstack(bias))
        return tf.concat([x_z + g_z, x_r + g_r, g_h, x_h], 0)[:, None]

    @staticmethod
    def step(
        x: Sequence[Columns], g: Sequence[Columns], bias: Sequence[Columns], h: Columns
    ) -> tuple[list[Columns], list[Columns]]:
        """(state after, values that the backward pass needs)."""
        z, r = tf.sigmoid(x[0] + g[0] + bias[0]), tf.sigmoid(x[1] + g[1] + bias[1])
        g_h = g[2] + bias[2]
        c = tf.tanh(x[2] + bias[3] + r * g_h)
        return [c + z * (h - c)], [z, r, g_h, c, h - c]

    @staticmethod
    def back(kept: Sequence[Columns], d_h: Columns) -> tuple[list[Columns], list[Columns]]:
        """(gradients of the values with a bias, the part of the state's gradient that does not flow through g)."""
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
        """(state after, values that the backward pass needs)."""
        i, f, candidate, o = (sum(parts) for parts in zip(x, g, bias, strict=True))
        i, f, candidate, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(candidate), tf.sigmoid(o)
        after = f * c + i * candidate
        reached = tf.tanh(after)
        return [o * reached, after], [i, f, candidate, o, c, reached]

    @staticmethod
    def back(kept: Sequence[Columns], d_h: Columns, d_c: Columns) -> tuple[list[Columns], list[Columns]]:
        """(gradients of the values with a bias, the part of the state's gradient that does not flow through g)."""
        i, f, candidate, o, c, reached = kept
        d_c += d_h * o * (1 - reached * reached)
        d_gates = [d_c * candidate * i * (1 - i), d_c * c * f * (1 - f), d_c * i * (1 - candidate * candidate)]
        return [*d_gates, d_h * reached * o * (1 - o)], [tf.zeros_like(d_h), d_c * f]


CELLS: dict[str, type[GRU] | type[LSTM]] = {"gru": GRU, "lstm": LSTM}


@cache
def _gates(cell: type[GRU] | type[LSTM], operands: tf.DType, *, compiled: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(forward, backward) of one step without its products. Cached, so that XLA compiles them once for all layers and shards."""

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

    x: operands [steps, in, rows]. kernels: [in, gates * units] and [units, gates * units]. bias: see the cell's `biases`.
    state: Columns. Outputs: operands [steps, units, rows]. compiled: whether XLA compiles the gates.
    """
    step, step_back = _gates(cell, operands, compiled=compiled)  # type: ignore[arg-type]  # mypy: a class is not hashable

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def scan(x: tf.Tensor, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, *state: Columns) -> Any:
        rounded = tf.cast(recurrent_kernel, operands)
        products = tf.matmul(tf.transpose(tf.cast(kernel, operands))[None], x)
        outputs, last, kept = _scan_forward(step, cell.KEPT, products, tf.transpose(rounded), bias, list(state))

        def gradient(d_outputs: tf.Tensor, *d_last: Columns) -> Any:
            d, d_state = _scan_backward(step_back, kept, rounded, bias.shape[0], d_outputs, list(d_last))
            units, d_side, x_side = rounded.shape[0], _side_by_side(d), _side_by_side(x)
            d_x = tf.matmul(tf.cast(kernel, operands)[None], tf.concat([_cut(d, units, 1)[i] for i in cell.OF_X], 1))
            gates = _cut(d_side, units)
            d_kernel = tf.concat([_multiply(x_side, gates[i], operands, transpose_b=True) for i in cell.OF_X], 1)
            d_g = d_side[: rounded.shape[1]]
            d_recurrent = _multiply(_side_by_side(outputs[:-1]), d_g, operands, transpose_b=True)
            # A product with ones, because reduce_sum would sum in the operands' type.
            d_bias = _multiply(d_side, tf.ones((tf.shape(d_side)[1], 1)), operands)
            return d_x, d_kernel, d_recurrent, d_bias, *d_state

        return (outputs[1:], *last), gradient

    return scan  # type: ignore[no-any-return]


def _scan_forward(
    step: Callable[..., Any], kept_count: int, products: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, state: list[Columns]
) -> tuple[tf.Tensor, list[Columns], list[Any]]:
    """(outputs [1 + steps, units, rows], state after the last step, arrays of the values that the backward pass needs).

    products: the input products of all steps. kernel: the transposed recurrent kernel. The first output is the state before.
    """
    steps, (units, rows), operands = tf.shape(products)[0], state[0].shape, kernel.dtype

    def body(t: tf.Tensor, h: Columns, state: Any, outputs: Any, kept: Any) -> Any:
        h, state, keep = step(products[t], tf.matmul(kernel, h), bias, state)
        kept = [array.write(t, value) for array, value in zip(kept, keep, strict=True)]
        return t + 1, h, state, outputs.write(t + 1, h), kept

    h = tf.cast(state[0], operands)
    outputs = _new_array(operands, steps + 1, units, rows).write(0, h)
    kept = [_new_array(tf.float32, steps, units, rows) for _ in range(kept_count)]
    loop = (0, h, state, outputs, kept)
    _, _, state, outputs, kept = tf.while_loop(lambda t, *_: t < steps, body, loop, maximum_iterations=steps)
    return outputs.stack(), state, kept


def _scan_backward(
    step_back: Callable[..., Any], kept: list[Any], kernel: tf.Tensor, height: int, d_outputs: tf.Tensor, d_last: list[Columns]
) -> tuple[tf.Tensor, list[Columns]]:
    """(gradients of the values with a bias at all steps [steps, height, rows], gradients of the first state).

    kernel: the recurrent kernel. d_outputs, d_last: the gradients of the outputs and of the last state.
    """
    (units, columns), steps, rows = kernel.shape, tf.shape(d_outputs)[0], d_last[0].shape[1]

    def body(t: tf.Tensor, through: Columns, direct: Any, d: Any) -> Any:
        d_t, direct = step_back([array.read(t) for array in kept], d_outputs[t], through, direct)
        return t - 1, tf.matmul(kernel, d_t[:columns]), direct, d.write(t, d_t)

    loop = (steps - 1, tf.zeros((units, rows), kernel.dtype), d_last, _new_array(kernel.dtype, steps, height, rows))
    _, through, direct, d = tf.while_loop(lambda t, *_: t >= 0, body, loop, maximum_iterations=steps)
    return d.stack(), [direct[0] + tf.cast(through, tf.float32), *direct[1:]]


def _new_array(dtype: tf.DType, size: Any, height: int, rows: int) -> Any:
    return tf.TensorArray(dtype, size, element_shape=[height, rows], clear_after_read=False)


def _cut(gates: tf.Tensor, units: int, axis: int = 0) -> list[tf.Tensor]:
    return tf.split(gates, gates.shape[axis] // units, axis)  # type: ignore[no-any-return]


def _dense(kernel: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """kernel's transpose @ x at each step: [in, out], [steps, in, rows] -> float32 [steps, out, rows].

    The operands of its gradients are rounded to x's type.
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
    """a @ b as float32. The operands and the product are rounded to `operands`."""
    return tf.cast(tf.matmul(tf.cast(a, operands), tf.cast(b, operands), **transpose), tf.float32)
