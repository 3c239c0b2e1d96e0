"""A network's weights as the exact step takes them: int8 kernels with a float32 scale a column.

Knows nothing of how a step is computed. Everything here is done by elementwise float32 operations of IEEE 754, or by sums of
integers that float64 holds exactly, so that every machine gets the same bits.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.generation.backend import STATES
from trainer.artifact import GATES, Architecture, Tensors

LARGEST_TABLE = 1 << 25  # bytes of input products that are computed for all characters in advance


@dataclass(frozen=True)
class Kernel:
    """Columns of int8: a product's column is its integer sum times the scale, plus the bias."""

    weights: NDArray[np.int8]  # [inputs, columns]
    scale: NDArray[np.float32]  # [columns]
    bias: NDArray[np.float32]  # [columns]

    @cached_property
    def floats(self) -> NDArray[np.floating[Any]]:
        """The weights in a type that holds every sum of products of int8 exactly, whatever the order: float32 up to 2^24."""
        return self.weights.astype(np.float32 if 127 * 127 * len(self.weights) < 1 << 24 else np.float64)


@dataclass(frozen=True)
class Layer:
    """A recurrent layer. `input` is of the layer below, or of the embedding."""

    recurrent: Kernel
    input: Kernel


@dataclass(frozen=True)
class QuantizedNetwork:
    """All that a step needs. A character's embedding is int8 with a scale of its own."""

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
        """Columns of a kernel per unit."""
        return GATES[self.cell]

    @property
    def state_shape(self) -> tuple[int, int]:
        """Of one row: (state vectors, units)."""
        return STATES[self.cell] * len(self.layers), self.units

    def input_product(self, characters: NDArray[np.integer]) -> NDArray[np.float32]:
        """What characters give the first layer, its bias added: [characters, gates * units]."""
        kernel = self.layers[0].input
        sums: NDArray[np.float32] = (self.embedding[characters].astype(kernel.floats.dtype) @ kernel.floats).astype(np.float32)
        scaled: NDArray[np.float32] = sums * kernel.scale * self.embedding_scale[characters, None]
        return scaled + kernel.bias

    def table(self) -> NDArray[np.float32] | None:
        """`input_product` of every character, or None where that would be too large."""
        if 4 * self.vocabulary * self.gates * self.units > LARGEST_TABLE:
            return None
        return self.input_product(np.arange(self.vocabulary))


def quantize(architecture: Architecture, tensors: Tensors) -> QuantizedNetwork:
    """Rounds a version's kernels, and its embedding.

    A state lies in (-1, 1) and enters products as rint(127 h), so the scale of such a product has another factor 1 / 127.
    """
    layers = []
    for i in range(architecture.layers):
        bias = tensors[f"rnn.{i}.bias"]
        # A GRU has two rows of biases: the input's, and the recurrent product's, which the reset gate multiplies.
        of_input, of_state = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
        layers.append(
            Layer(
                recurrent=_kernel(tensors[f"rnn.{i}.recurrent_kernel"], of_state, of_states=True),
                input=_kernel(tensors[f"rnn.{i}.kernel"], of_input, of_states=i > 0),
            )
        )
    rows, scales = _rounded(np.ascontiguousarray(tensors["embedding"].T))
    return QuantizedNetwork(
        cell=architecture.cell,
        units=architecture.units,
        embedding=np.ascontiguousarray(rows.T),
        embedding_scale=scales,
        layers=layers,
        output=_kernel(tensors["dense.kernel"], tensors["dense.bias"], of_states=True),
    )


def _kernel(weights: NDArray[np.float32], bias: NDArray[np.float32], *, of_states: bool) -> Kernel:
    rounded, scale = _rounded(weights)
    return Kernel(rounded, scale / np.float32(127) if of_states else scale, np.ascontiguousarray(bias, np.float32))


def _rounded(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(Each column divided by its scale, rounded to -127 to 127; the scales). A column of zeros has scale 1."""
    scale = np.abs(weights).max(0) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weights / scale).astype(np.int8), scale
