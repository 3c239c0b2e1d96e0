"""A layer's scan over all steps in C (service/generation/kernel/recurrence.c), called through ctypes.

Does not import TensorFlow.
"""

import ctypes
import logging
from collections.abc import Mapping
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_int32, c_void_p
from dataclasses import dataclass
from functools import cache
from itertools import count, takewhile
from math import prod
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from service.generation.kernel.build import NoCompiler, find_or_build

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
TILE = 16  # rows that the library computes together
MIN_ROWS = TILE  # fewer rows take the library as long as TILE, and TensorFlow less
ROW_SHARDS = 2  # fastest on two cores
MIN_SHARD_ROWS = 16  # with shards of 8 rows, a network of 1024 units trains 20% slower than with one shard
ALIGNMENT = 64  # bytes, a cache line: threads must not write to the same one, and TensorFlow copies an array that is not aligned


ARRAYS = (
    *("kernel", "bias", "inputs", "characters", "state", "outputs", "kept", "last"),
    *("d_outputs", "d_last", "d_values", "d_kernel", "d_bias", "d_inputs", "d_state"),
)


@dataclass(frozen=True)
class RunOptions:
    threads: int
    instructions: str | None = None  # an instruction set; None: the fastest of this machine


class _Scan(Structure):
    """A call, as in recurrence.h."""

    SIZES = ("lstm", "units", "rows", "steps", "vocabulary")
    _fields_ = [*((name, c_int32) for name in SIZES), *((name, c_void_p) for name in ARRAYS)]


class ScanLibrary:
    """The compiled scan. Arrays of steps are [values, steps, rows], states [values, rows]: h, and c of an LSTM."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if the library cannot be loaded."""
        self._library = library = ctypes.CDLL(str(path))
        library.folio_scan_instructions.restype = c_char_p
        library.folio_scan.argtypes = [POINTER(_Scan), c_int, c_int, c_char_p]

    @property
    def instructions(self) -> list[str]:
        """The instruction sets that this machine supports, the fastest first."""
        return [name.decode() for name in takewhile(bool, map(self._library.folio_scan_instructions, count()))]

    def forward(
        self, kernel: Floats, bias: Floats, inputs: Floats, state: Floats, characters: Ids | None, run: RunOptions
    ) -> list[Floats]:
        """[outputs after each step, values that `backward` needs, last state]. Raises MemoryError.

        kernel: [units, gates * units]. bias: [4 * units, 1], as the cell's `biases`. inputs: the input products [gates * units,
        steps * rows], or of all characters [gates * units, vocabulary], and the characters [steps, rows]. state: the first state.
        """
        units, rows = len(kernel), state.shape[1]
        steps = inputs.shape[1] // rows if characters is None else len(characters)
        kept = empty(-(-rows // TILE), steps, units, 6 if len(state) > units else 4, TILE)
        outputs, last = empty(units, steps, rows), empty(*state.shape)
        given = {"kernel": kernel, "bias": bias, "inputs": inputs, "state": state}
        self._call(0, given | {"outputs": outputs, "kept": kept, "last": last}, characters, inputs.shape[1], run)
        return [outputs, kept, last]

    def backward(self, given: Mapping[str, Floats], characters: Ids | None, vocabulary: int, run: RunOptions) -> list[Floats]:
        """The gradients of the values with a bias [4 * units, steps, rows], the kernel, the bias, inputs of all characters, state.

        given: kernel, state, outputs, kept: as in `forward`; d_outputs, d_last: gradients. vocabulary: 0 without characters.
        Raises MemoryError.
        """
        kernel, state = given["kernel"], given["state"]
        units, steps, rows = given["outputs"].shape
        d_inputs = empty(kernel.shape[1], vocabulary)
        results = [empty(4 * units, steps, rows), empty(*kernel.shape), empty(4 * units, 1), d_inputs, empty(*state.shape)]
        names = ("d_values", "d_kernel", "d_bias", "d_inputs", "d_state")
        self._call(1, {**given, **dict(zip(names, results, strict=True))}, characters, vocabulary, run)
        return results

    def _call(self, backward: int, arrays: Mapping[str, Floats], characters: Ids | None, vocabulary: int, run: RunOptions) -> None:
        if run.instructions is not None and run.instructions not in self.instructions:
            raise ValueError(f"this machine has no {run.instructions}; it has {', '.join(self.instructions)}")
        units, steps, rows = arrays["outputs"].shape
        scan = _Scan(len(arrays["state"]) > units, units, rows, steps, vocabulary)
        for name, array in arrays.items():
            setattr(scan, name, array.ctypes.data)
        if characters is not None:
            scan.characters = characters.ctypes.data
        instructions = None if run.instructions is None else run.instructions.encode()
        if self._library.folio_scan(byref(scan), backward, run.threads, instructions):
            raise MemoryError("there is not enough memory for the recurrence of a batch")


@cache
def find_library() -> ScanLibrary | None:
    """The compiled scan, built first if necessary. Where that fails, logs the reason and returns None."""
    try:
        return ScanLibrary(find_or_build())
    except (NoCompiler, OSError) as error:
        log.warning("the recurrence is not compiled, so TensorFlow computes it, which takes up to 1.5 times as long: %s", error)
        return None


def choose_library(rows: int, *, f32: bool) -> ScanLibrary | None:
    """The library that a batch of `rows` uses, or None if TensorFlow computes its recurrence. f32: the type of operands."""
    return find_library() if f32 and rows >= MIN_ROWS else None


def count_row_shards(rows: int) -> int:
    """The number of shards that TensorFlow's loop splits a batch of `rows` into. They run in parallel (`trainer.recurrence`)."""
    return ROW_SHARDS if rows % ROW_SHARDS == 0 and rows >= ROW_SHARDS * MIN_SHARD_ROWS else 1


class _Block:
    """A buffer that returns to a free list when the last array on it is deleted.

    The pages of new memory are cleared by the system when they are first used, which takes several percent of a training step.
    """

    unused: ClassVar[dict[int, list[NDArray[np.uint8]]]] = {}  # by size in bytes

    def __init__(self, size: int) -> None:
        try:
            self._memory = self.unused[size].pop()
        except (KeyError, IndexError):
            self.unused.clear()  # the sizes of a batch have changed
            self._memory = np.empty(size, np.uint8)
        self.__array_interface__ = self._memory.__array_interface__

    def __del__(self) -> None:
        self.unused.setdefault(len(self._memory), []).append(self._memory)


def empty(*shape: int) -> Floats:
    """An array that begins at a cache line."""
    size = 4 * prod(shape)
    memory = np.asarray(_Block(size + ALIGNMENT))
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)
