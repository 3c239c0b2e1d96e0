"""A network's weights for the exact step: int8 kernels with one float32 scale a column. Does not compute the step.

Only elementwise float32 operations of IEEE 754, and integer sums that float32 or float64 holds exactly, are used here. So every
machine gets the same bits.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.generation.backend import STATES
from trainer.artifact import GATES, Architecture, Tensors

LARGEST_TABLE = 1 << 25  # bytes; input products of all characters are computed in advance up to this size


@dataclass(frozen=True)
class Kernel:
    """An int8 kernel. Its product with int8 inputs is, for each column, the integer sum times the scale, plus the bias."""

    weights: NDArray[np.int8]  # [inputs, columns]
    scale: NDArray[np.float32]  # [columns]
    bias: NDArray[np.float32]  # [columns]

    @cached_property
    def floats(self) -> NDArray[np.floating[Any]]:
        """The weights as floats that hold every sum of int8 products exactly, in any order. float32 is exact up to 2^24."""
        return self.weights.astype(np.float32 if 127 * 127 * len(self.weights) < 1 << 24 else np.float64)


@dataclass(frozen=True)
class Layer:
    """A recurrent layer."""

    recurrent: Kernel
    input: Kernel  # for the output of the layer below, or the embedding


@dataclass(frozen=True)
class QuantizedNetwork:
    """All weights of a network. Each character's embedding is int8 with a scale of its own."""

    cell: str
    units: int
    embedding: NDArray[np.int8]  # [vocabulary, embedding]
    embedding_scale: NDArray[np.float32]  # [vocabulary]
    layers: list[Layer]
    output: Kernel  # [units, vocabulary]

    @property
    def vocabulary(self) -> int:
        return len(self.embedding)

    @property
    def gates(self) -> int:
        """Columns of a layer's kernels per unit."""
        return GATES[self.cell]

    @property
    def state_shape(self) -> tuple[int, int]:
        """The state of one row: (state vectors, units)."""
        return STATES[self.cell] * len(self.layers), self.units

    def input_product(self, characters: NDArray[np.integer]) -> NDArray[np.float32]:
        """The first layer's input product, with its bias, for each character: [characters, gates * units]."""
        kernel = self.layers[0].input
        sums: NDArray[np.float32] = (self.embedding[characters].astype(kernel.floats.dtype) @ kernel.floats).astype(np.float32)
        scaled: NDArray[np.float32] = sums * kernel.scale * self.embedding_scale[characters, None]
        return scaled + kernel.bias

    def table(self) -> NDArray[np.float32] | None:
        """`input_product` of every character, or None if it is larger than LARGEST_TABLE."""
        if 4 * self.vocabulary * self.gates * self.units > LARGEST_TABLE:
            return None
        return self.input_product(np.arange(self.vocabulary))


def quantize(architecture: Architecture, tensors: Tensors) -> QuantizedNetwork:
    """Rounds a version's kernels and embedding to int8.

    A state h lies in (-1, 1) and enters a product as rint(127 h). So the scale of such a product has another factor 1 / 127.
    """
    layers = []
    for i in range(architecture.layers):
        bias = tensors[f"rnn.{i}.bias"]
        # A GRU's biases are two rows: of the input product, and of the recurrent product, which the reset gate multiplies.
        input_bias, recurrent_bias = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
        layers.append(
            Layer(
                recurrent=_kernel(tensors[f"rnn.{i}.recurrent_kernel"], recurrent_bias, of_states=True),
                input=_kernel(tensors[f"rnn.{i}.kernel"], input_bias, of_states=i > 0),
            )
        )
    embedding, scale = _round_columns(np.ascontiguousarray(tensors["embedding"].T))
    return QuantizedNetwork(
        cell=architecture.cell,
        units=architecture.units,
        embedding=np.ascontiguousarray(embedding.T),
        embedding_scale=scale,
        layers=layers,
        output=_kernel(tensors["dense.kernel"], tensors["dense.bias"], of_states=True),
    )


def _kernel(weights: NDArray[np.float32], bias: NDArray[np.float32], *, of_states: bool) -> Kernel:
    rounded, scale = _round_columns(weights)
    return Kernel(rounded, scale / np.float32(127) if of_states else scale, np.ascontiguousarray(bias, np.float32))


def _round_columns(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(Each column divided by its scale and rounded to -127..127; the scales). A column of zeros has scale 1."""
    scale = np.abs(weights).max(0) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weights / scale).astype(np.int8), scale
