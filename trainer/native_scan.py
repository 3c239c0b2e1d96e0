"""A layer's scan over all steps in C, as operations of TensorFlow."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.cells import Cell, Columns
from trainer.products import flat, reorder_gates
from trainer.resources import cores
from trainer.scan_library import Floats, Ids, RunOptions, ScanLibrary


class NativeScan:
    """See `trainer.recurrence.Scan`. It runs on all cores, in float32."""

    def __init__(self, cell: Cell, library: ScanLibrary) -> None:
        self._cell, self._library, self._options = cell, library, RunOptions(cores())

    def forward(self, x: tf.Tensor, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, state: list[Columns]) -> Any:
        def run(kernel: Floats, bias: Floats, inputs: Floats, state: Floats, characters: Ids | None = None) -> list[Floats]:
            return self._library.forward(kernel, bias, inputs, state, characters, self._options)

        (units, rows), joined, characters = state[0].shape, tf.concat(state, 0), [x] if x.dtype.is_integer else []
        inputs = tf.transpose(kernel) if characters else tf.matmul(kernel, flat(x), transpose_a=True)
        outputs, kept, last = _call(run, [recurrent_kernel, bias, inputs, joined, *characters], results=3)
        outputs = tf.ensure_shape(outputs, (units, x.shape[0 if characters else 1], rows))
        return outputs, self._split(last, units, rows), (x, kernel, recurrent_kernel, joined, outputs, kept)

    def backward(self, kept: Any, d_outputs: tf.Tensor, d_last: list[Columns]) -> Any:
        x, kernel, *given = kept
        of_characters, vocabulary = x.dtype.is_integer, kernel.shape[0] if x.dtype.is_integer else 0

        def run(*arrays: Any) -> list[Floats]:
            names = ("kernel", "state", "outputs", "kept", "d_outputs", "d_last")
            characters = arrays[len(names)] if of_characters else None
            return self._library.backward(dict(zip(names, arrays, strict=False)), characters, vocabulary, self._options)

        units, rows = d_last[0].shape
        given = [*given, d_outputs, tf.concat(d_last, 0), *[x] * of_characters]
        d, d_recurrent, d_bias, d_inputs, d_first = _call(run, given, results=5)
        d_recurrent, d_state = tf.ensure_shape(d_recurrent, (units, kernel.shape[1])), self._split(d_first, units, rows)
        if of_characters:
            d_x, d_kernel = None, tf.transpose(tf.ensure_shape(d_inputs, kernel.shape[::-1]))
        else:
            d = flat(tf.ensure_shape(d, (4 * units, d_outputs.shape[1], rows)))[: kernel.shape[1]]
            d_kernel = reorder_gates(tf.matmul(flat(x), d, transpose_b=True), self._cell.X_GATES, back=True)
            d_x = tf.reshape(tf.matmul(reorder_gates(kernel, self._cell.X_GATES), d), tf.shape(x))
        return d_x, d_kernel, d_recurrent, tf.ensure_shape(d_bias, (4 * units, 1)), *d_state

    def _split(self, state: tf.Tensor, units: int, rows: int) -> list[Columns]:
        parts = self._cell.STATE
        return tf.split(tf.ensure_shape(state, (parts * units, rows)), parts)  # type: ignore[no-any-return]


def _call(function: Callable[..., list[Floats]], given: Sequence[tf.Tensor], results: int) -> Any:
    if tf.executing_eagerly():  # where numpy_function copies what is given
        return [tf.constant(result) for result in function(*(np.asarray(tensor) for tensor in given))]
    return tf.numpy_function(function, given, [tf.float32] * results, stateful=False)
