"""A network's and a call's data as the kernels for GPUs read them; see service/generation/kernel/cuda/numbers.cuh."""

import ctypes
import math
import weakref
from ctypes import Structure, c_int32, c_uint32, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.generation.cuda.device import THREADS, Gpu
from service.generation.native import KernelPointers
from service.generation.quantized import Kernel, QuantizedNetwork

TILE = 16  # rows of a product
SLICE = 64  # inputs of a product
LARGE = 256  # a whole block samples a row of a vocabulary larger than this
STREAMED_SHARED = 1024 + THREADS // 32 * (12 * LARGE + LARGE // 4)  # bytes of shared memory of a block of streamed.cu


class LayerPointers(Structure):
    _fields_ = [("recurrent", KernelPointers), ("input", KernelPointers)]


class NetworkPointers(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("layers", "units", "vocabulary", "rows")),
        *((name, c_int32) for name in ("slices", "embedding_slices", "columns", "sortable")),
        ("layer", c_void_p),
        ("output", KernelPointers),
        *((name, c_void_p) for name in ("table", "embedded", "embedded_scale", "states", "rounded", "logits", "sums", "keys")),
        *((name, c_void_p) for name in ("characters", "paused", "uniform")),
    ]


class CallPointers(Structure):
    _fields_ = [
        ("rows", c_int32),
        ("steps", c_int32),
        ("tag", c_uint32),
        *((name, c_void_p) for name in ("slots", "inputs", "forced", "uniforms", "row", "chosen", "snapshots", "logits")),
        *((name, c_void_p) for name in ("arrivals", "mail")),
    ]


def pack(kernel: NDArray[np.int8], gates: int, octets_at_least: int = 1) -> NDArray[np.int8]:
    """A kernel [inputs, gates * units] as [octet][slice][gate][column][16-byte part][byte], with zeros for what is missing.

    octets_at_least: the number of octets is a multiple of this.
    """
    inputs, units = len(kernel), kernel.shape[1] // gates
    multiple = 8 * octets_at_least
    padded = np.zeros((gates, -(-units // multiple) * multiple, -(-inputs // SLICE) * SLICE), np.int8)
    padded[:, :units, :inputs] = kernel.T.reshape(gates, units, inputs)
    parts = padded.reshape(gates, -1, 8, padded.shape[2] // SLICE, 4, 16)
    return np.ascontiguousarray(parts.transpose(1, 3, 0, 2, 4, 5))


class Memory:
    """Allocations on a device, freed when this object is deleted."""

    def __init__(self, device: Gpu) -> None:
        self.device = device
        self._pointers: set[int] = set()
        weakref.finalize(self, _free, device, self._pointers)

    def reserve(self, size: int) -> int:
        """Zeroed memory."""
        pointer = self.device.allocate(size)
        self._pointers.add(pointer)
        return pointer

    def put(self, array: NDArray[Any]) -> int:
        pointer = self.reserve(array.nbytes)
        self.device.write(pointer, np.ascontiguousarray(array))
        return pointer

    def free(self, pointer: int) -> None:
        self._pointers.discard(pointer)
        self.device.free(pointer)


def _free(device: Gpu, pointers: set[int]) -> None:
    device.use()
    for pointer in pointers:
        device.free(pointer)


def copy_network(network: QuantizedNetwork, slots: int, memory: Memory) -> NetworkPointers:
    """Copies a network to a device, and reserves the memory that its calls need."""
    put, reserve, gates, table = memory.put, memory.reserve, network.gates, network.table()

    def kernel(given: Kernel, gates: int, octets: int = 1) -> KernelPointers:
        return KernelPointers(put(pack(given.weights, gates, octets)), put(given.scale), put(given.bias))

    layers = (LayerPointers * len(network.layers))()
    for i, layer in enumerate(network.layers):
        layers[i].recurrent = kernel(layer.recurrent, gates)
        if i or table is None:
            layers[i].input = kernel(layer.input, gates)
    slices, columns = -(-network.units // SLICE), -(-network.vocabulary // 16) * 16
    pointers = NetworkPointers(len(layers), network.units, network.vocabulary, slots, slices, 0, columns)
    pointers.sortable = 1 << (network.vocabulary - 1).bit_length()
    pointers.layer = put(as_bytes(layers))
    pointers.output = kernel(network.output, 1, 3)
    if table is None:
        embedded = np.pad(network.embedding, ((0, 0), (0, -network.embedding.shape[1] % SLICE)))
        pointers.embedding_slices = embedded.shape[1] // SLICE
        pointers.embedded, pointers.embedded_scale = put(embedded), put(network.embedding_scale)
    else:
        pointers.table = put(table)
    pointers.states = reserve(4 * slots * math.prod(network.state_shape))
    pointers.rounded = reserve(2 * len(layers) * slots * slices * SLICE)
    pointers.logits = reserve(4 * slots * columns)
    if network.vocabulary > LARGE:
        pointers.sums, pointers.keys = reserve(4 * slots * columns // 16), reserve(8 * slots * pointers.sortable)
    pointers.characters, pointers.paused, pointers.uniform = (reserve(4 * slots) for _ in range(3))
    return pointers


@dataclass(frozen=True)
class Resident:
    """How a network's weights are divided among the shared memory of blocks; see resident.cu. The formulas are the kernels'."""

    width: int  # units of a block
    split: int  # parts of a recurrent product in advance_few
    blocks: int  # of a group
    groups: int
    few: int  # bytes of shared memory of advance_few, and of advance_many
    many: int

    @classmethod
    def fit(cls, network: QuantizedNetwork, processors: int, shared_memory: int) -> "Resident | None":
        """None if the network is of another kind, or does not fit. shared_memory: bytes that a block may have."""
        slices, triples = network.units // SLICE, -(-network.vocabulary // 24)
        parts = 1 if slices % 4 else 4
        is_kind = network.cell == "gru" and len(network.layers) == 1 and network.units % SLICE == 0
        if not is_kind or network.table() is None or triples * parts > THREADS // 32:
            return None
        columns = 24 * triples
        for width in (32, 16, 8):
            common = 256 + 3 * width * network.units + (network.vocabulary + 2) * 12 * width + 4 * parts * TILE * columns
            many, blocks = common + columns * network.units, network.units // width
            for split in range(THREADS // 4 // width, 0, -1):  # at most: a warp has one part of 8 units
                few = common + TILE * (network.units + 64) + 12 * TILE * (width + 8) * split + 4 * TILE
                if slices % split == 0 and processors >= blocks and max(few, many) <= shared_memory:
                    return cls(width, split, blocks, processors // blocks, few, many)
        return None

    @property
    def rows_of_few(self) -> int:
        """The most rows of advance_few."""
        return TILE * self.groups

    def macros(self, network: QuantizedNetwork) -> dict[str, int]:
        return {"UNITS": network.units, "VOCABULARY": network.vocabulary, "WIDTH": self.width, "SPLIT": self.split}


def as_bytes(value: ctypes.Array[Any] | Structure) -> NDArray[np.uint8]:
    """The memory of a ctypes value."""
    memory: NDArray[np.uint8] = np.frombuffer(value, np.uint8)  # type: ignore[call-overload]  # any buffer will do
    return memory
