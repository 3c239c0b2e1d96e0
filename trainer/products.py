"""Matrix products whose operands may be rounded, and the arrays they take."""

from collections.abc import Sequence

import tensorflow as tf


def multiply(a: tf.Tensor, b: tf.Tensor, operands: tf.DType, **transpose: bool) -> tf.Tensor:
    """a @ b as float32. The operands and the product are rounded to `operands`."""
    return tf.cast(tf.matmul(tf.cast(a, operands), tf.cast(b, operands), **transpose), tf.float32)


def flat(x: tf.Tensor) -> tf.Tensor:
    """[values, steps, rows] as [values, steps * rows]."""
    return tf.reshape(x, [x.shape[0], -1])


def reorder_gates(kernel: tf.Tensor, order: Sequence[int], *, back: bool = False) -> tf.Tensor:
    """The kernel with its gates' columns in this order, or back in Keras's order."""
    if list(order) == sorted(order):
        return kernel
    parts = tf.split(kernel, len(order), 1)
    return tf.concat([parts[order.index(gate) if back else order[gate]] for gate in range(len(order))], 1)
