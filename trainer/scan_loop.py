"""A layer's scan over all steps as a TensorFlow loop, forward and backward: where the compiled scan can't be used.

States are columns, and a kernel is the left operand of a product. So each step packs the small state anew, not the kernel, and the
gates are split without copying. XLA compiles the gates of a step to one call, forward and backward.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import tensorflow as tf

from trainer.cells import GRU, LSTM, Cell, Columns
from trainer.products import flat, multiply, reorder_gates


class LoopScan:
    """See `trainer.recurrence.Scan`."""

    def __init__(self, cell: Cell, operands: tf.DType, *, compiled: bool) -> None:
        """operands: the type of the products' operands. compiled: whether XLA compiles the gates."""
        self._cell, self._operands = cell, operands
        self._step, self._step_back = _gates(cell, operands, compiled=compiled)  # type: ignore[arg-type]  # a class is not hashable

    def forward(self, x: tf.Tensor, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, state: list[Columns]) -> Any:
        if x.dtype.is_integer:
            x = tf.one_hot(x, kernel.shape[0], axis=0)
        x, kernel, recurrent_kernel = (tf.cast(given, self._operands) for given in (x, kernel, recurrent_kernel))
        products, transposed = tf.matmul(tf.transpose(kernel)[None], _swap(x)), tf.transpose(recurrent_kernel)
        steps, (units, rows) = tf.shape(products)[0], state[0].shape

        def body(t: tf.Tensor, h: Columns, state: Any, outputs: Any, kept: Any) -> Any:
            h, state, keep = self._step(products[t], tf.matmul(transposed, h), bias, state)
            kept = [array.write(t, value) for array, value in zip(kept, keep, strict=True)]
            return t + 1, h, state, outputs.write(t + 1, h), kept

        h = tf.cast(state[0], self._operands)
        outputs = _new_array(self._operands, steps + 1, units, rows).write(0, h)
        kept = [_new_array(tf.float32, steps, units, rows) for _ in range(self._cell.KEPT)]
        loop = (0, h, state, outputs, kept)
        _, _, state, outputs, kept = tf.while_loop(lambda t, *_: t < steps, body, loop, maximum_iterations=steps)
        outputs = _swap(outputs.stack())
        return outputs[:, 1:], state, (x, kernel, recurrent_kernel, outputs[:, :-1], kept)

    def backward(self, kept: Any, d_outputs: tf.Tensor, d_last: list[Columns]) -> Any:
        x, kernel, recurrent_kernel, before, kept = kept
        d, d_state = self._scan_back(recurrent_kernel, before, kept, d_outputs, d_last)
        d, units, operands, order = flat(d), before.shape[0], self._operands, self._cell.X_GATES
        d_products, d_g = d[: kernel.shape[1]], d[self._cell.FIRST_RECURRENT * units :]
        d_x = tf.reshape(tf.matmul(reorder_gates(kernel, order), d_products), tf.shape(x))
        d_kernel = reorder_gates(multiply(flat(x), d_products, operands, transpose_b=True), order, back=True)
        d_recurrent = multiply(flat(before), d_g, operands, transpose_b=True)
        # A product with ones, because reduce_sum would sum in the operands' type.
        return d_x, d_kernel, d_recurrent, multiply(d, tf.ones((tf.shape(d)[1], 1)), operands), *d_state

    def _scan_back(self, recurrent_kernel: tf.Tensor, before: tf.Tensor, kept: Any, d_outputs: tf.Tensor, d_last: Any) -> Any:
        """(gradients of the values with a bias [4 * units, steps, rows], gradients of the first state)."""
        (units, columns), rows = recurrent_kernel.shape, d_last[0].shape[1]
        before, d_outputs = _swap(before), _swap(d_outputs)
        steps, first = tf.shape(d_outputs)[0], self._cell.FIRST_RECURRENT * units

        def body(t: tf.Tensor, through: Columns, direct: Any, d: Any) -> Any:
            d_t, direct = self._step_back([array.read(t) for array in kept], before[t], d_outputs[t], through, direct)
            return t - 1, tf.matmul(recurrent_kernel, d_t[first : first + columns]), direct, d.write(t, d_t)

        d = _new_array(self._operands, steps, 4 * units, rows)
        loop = (steps - 1, tf.zeros((units, rows), self._operands), d_last, d)
        _, through, direct, d = tf.while_loop(lambda t, *_: t >= 0, body, loop, maximum_iterations=steps)
        return _swap(d.stack()), [direct[0] + tf.cast(through, tf.float32), *direct[1:]]


@cache
def _gates(cell: type[GRU] | type[LSTM], operands: tf.DType, *, compiled: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(forward, backward) of one step without its products. Cached, so that XLA compiles them once for all layers and shards."""

    def step(x: Columns, g: Columns, bias: tf.Tensor, state: Sequence[Columns]) -> Any:
        units = state[0].shape[0]
        x, g = (_cut(tf.cast(product, tf.float32), units) for product in (x, g))
        state, keep = cell.step(x, g, _cut(bias, units), *state)
        return tf.cast(state[0], operands), state, keep

    def step_back(kept: Sequence[Columns], before: Columns, d_output: Columns, through: Columns, direct: Sequence[Columns]) -> Any:
        d_h = direct[0] + tf.cast(d_output, tf.float32) + tf.cast(through, tf.float32)
        d, direct = cell.back(kept, tf.cast(before, tf.float32), d_h, *direct[1:])
        return tf.concat([tf.cast(gate, operands) for gate in d], 0), direct

    if compiled:
        step, step_back = (tf.function(function, autograph=False, jit_compile=True) for function in (step, step_back))
    return step, step_back


def _swap(x: tf.Tensor) -> tf.Tensor:
    """[values, steps, rows] as [steps, values, rows], or back."""
    return tf.transpose(x, (1, 0, 2))


def _new_array(dtype: tf.DType, size: Any, height: int, rows: int) -> Any:
    return tf.TensorArray(dtype, size, element_shape=[height, rows], clear_after_read=False)


def _cut(gates: tf.Tensor, units: int) -> list[tf.Tensor]:
    return tf.split(gates, gates.shape[0] // units)  # type: ignore[no-any-return]
