"""A fast recurrence for CPUs: GRU and LSTM networks with a gradient of their own.

It takes the weights of Keras's layers and computes the same results faster. Keras's layers run a generic while loop, and the
gradient tape records each step. Here
- the scan over all steps, forward and backward, is in C (`trainer.native_scan`). Without a compiler, and for bfloat16, it is a loop
  of TensorFlow (`trainer.scan_loop`);
- the input product is outside the scan: one product for all steps. If the vocabulary is smaller than the embedding, the first
  layer's input product is a table of all characters' products;
- the gradient of a kernel is one product over all steps instead of one product per step;
- states are columns, [units, rows], and arrays of steps are [values, steps, rows]: matrices of the large products without a copy;
- the loop splits a large batch into shards of rows. They are independent, so cores do not wait for each other at each operation;
- the large products can be in bfloat16 on CPUs that have it: operands are rounded to it, summed in float32, and the sum is rounded
  to it. The layers' outputs and their gradients are rounded too. Weights, gates, states and logits are float32.

It knows tensors by their published names (see `trainer.artifact`), but not Keras.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf

from trainer.cells import CELLS, Cell, Columns
from trainer.native_scan import NativeScan
from trainer.products import flat, multiply
from trainer.scan_library import choose_library, count_row_shards
from trainer.scan_loop import LoopScan

States = list[tuple[tf.Tensor, ...]]  # for each layer (h,), or (h, c) of an LSTM, each float32 [batch, units]


class Scan(Protocol):
    """A layer's scan over all steps, forward and backward."""

    def forward(self, x: tf.Tensor, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, state: list[Columns]) -> Any:
        """(outputs after each step [units, steps, rows], state after the last, what `backward` needs).

        x: operands [in, steps, rows], or characters int32 [steps, rows], which select rows of the kernel. kernels: [in, gates *
        units] and [units, gates * units]. bias: see the cell's `biases`. All but x and the outputs are float32.
        """

    def backward(self, kept: Any, d_outputs: tf.Tensor, d_last: list[Columns]) -> Any:
        """The gradients of x, kernel, recurrent kernel, bias and the parts of the state.

        kept: from `forward`. d_outputs, d_last: the gradients of the outputs and of the last state.
        """


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
    scan, shards = _choose_scan(CELLS[cell], operands, characters.shape[0] or 1)
    logits, after = [], []
    for shard in range(shards):

        def cut(rows: tf.Tensor, shard: int = shard) -> tf.Tensor:
            return tf.transpose(tf.split(rows, shards)[shard])

        masks = None if output_masks is None else [cut(mask)[:, None] for mask in output_masks]
        columns = [tuple(cut(value) for value in state) for state in states]
        shard_logits, shard_after = _forward(CELLS[cell], scan, weights, columns, cut(characters), masks, operands)
        logits.append(shard_logits)
        after.append(shard_after)
    layers = zip(*after, strict=True)
    joined = [tuple(tf.transpose(tf.concat(values, 1)) for values in zip(*layer, strict=True)) for layer in layers]
    return tf.concat(logits, 0), joined


def _choose_scan(cell: Cell, operands: tf.DType, rows: int) -> tuple[Scan, int]:
    """(scan, number of shards)."""
    if (library := choose_library(rows, f32=operands == tf.float32)) is not None:
        return NativeScan(cell, library), 1
    shards = count_row_shards(rows)
    return LoopScan(cell, operands, compiled=shards > 1), shards


def _forward(
    cell: Cell,
    scan: Scan,
    weights: Mapping[str, tf.Tensor],
    states: States,
    characters: tf.Tensor,
    output_masks: Sequence[tf.Tensor] | None,
    operands: tf.DType,
) -> tuple[tf.Tensor, States]:
    """`forward` of a shard: characters int32 [steps, rows], states Columns, masks [units, 1, rows]."""
    embedding, kernel = weights["embedding"], weights["rnn.0.kernel"]
    if embedding.shape[0] <= embedding.shape[1]:
        kernel, x = multiply(embedding, kernel, operands), characters
    else:
        x = tf.cast(tf.transpose(tf.gather(embedding, characters), (2, 0, 1)), operands)
    layer, after = _differentiable(scan), []
    for i, state in enumerate(states):
        kernel = weights[f"rnn.{i}.kernel"] if i else kernel
        x, *last = layer(x, kernel, weights[f"rnn.{i}.recurrent_kernel"], cell.biases(weights[f"rnn.{i}.bias"]), *state)
        after.append(tuple(last))
        if output_masks is not None:
            x *= tf.cast(output_masks[i], operands)
    logits = _dense(weights["dense.kernel"], flat(x)) + weights["dense.bias"][:, None]
    return tf.transpose(tf.reshape(logits, [logits.shape[0], -1, characters.shape[1]]), (2, 1, 0)), after


def _differentiable(scan: Scan) -> Callable[..., Any]:
    """(x, kernel, recurrent kernel, bias, *state) -> (outputs after each step, *state after the last). See `Scan.forward`."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def layer(x: tf.Tensor, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, *state: Columns) -> Any:
        outputs, last, kept = scan.forward(x, kernel, recurrent_kernel, bias, list(state))
        return (outputs, *last), lambda d_outputs, *d_last: scan.backward(kept, d_outputs, list(d_last))

    return layer  # type: ignore[no-any-return]


def _dense(kernel: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """kernel's transpose @ x: [in, out], [in, columns] -> float32 [out, columns].

    The operands of its gradients are rounded to x's type.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def product(kernel: tf.Tensor, x: tf.Tensor) -> Any:
        def gradient(d: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            d = tf.cast(d, x.dtype)
            return multiply(x, d, x.dtype, transpose_b=True), tf.matmul(tf.cast(kernel, x.dtype), d)

        return tf.matmul(tf.transpose(kernel), tf.cast(x, tf.float32)), gradient

    return product(kernel, x)
