"""The step in C (kernel/), called through ctypes, which releases the GIL during a call."""

import ctypes
import os
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int32, c_void_p
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.generation.backend import Batch
from service.generation.quantized import Kernel, QuantizedNetwork
from service.generation.sampling import UNLIMITED, History, Sampling

Floats = NDArray[np.float32]


class KernelPointers(Structure):
    _fields_ = [("weights", c_void_p), ("scale", c_void_p), ("bias", c_void_p)]

    @classmethod
    def of(cls, kernel: Kernel) -> "KernelPointers":
        return cls(kernel.weights.ctypes.data, kernel.scale.ctypes.data, kernel.bias.ctypes.data)


class Row(Structure):
    """A row's sampling options, as in network.h and numbers.cuh."""

    _fields_ = [
        ("inverse_temperature", c_float),
        ("top_p", c_float),
        ("min_p", c_float),
        ("presence", c_float),
        ("frequency", c_float),
        ("repetition", c_float),
        ("top_k", c_int32),
        ("snapshot_at", c_int32),
        ("automaton_state", c_int32),
        ("num_left", c_int32),
        ("alphabet", c_int32),
        ("bias", c_void_p),
        ("counts", c_void_p),
        ("next", c_void_p),
        ("distance", c_void_p),
    ]


ROW = np.dtype(Row)


class _Call(Structure):
    _fields_ = [
        ("rows", c_int32),
        ("steps", c_int32),
        ("threads", c_int32),
        *((name, c_void_p) for name in ("states", "inputs", "forced", "uniforms", "row", "chosen", "snapshots", "logits")),
    ]


class Library:
    """The built kernel."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if the library cannot be loaded."""
        self._library = library = ctypes.CDLL(str(path))
        library.folio_instructions.restype = c_char_p
        library.folio_open.restype = c_void_p
        library.folio_open.argtypes = [*[c_int] * 7, c_char_p, c_void_p, c_void_p, c_void_p, POINTER(KernelPointers)]
        library.folio_advance.argtypes = [c_void_p, POINTER(_Call)]
        library.folio_advance.restype = None
        library.folio_close.argtypes = library.folio_threads.argtypes = [c_void_p]

    @property
    def instructions(self) -> list[str]:
        """The instruction sets that this machine supports, the fastest first."""
        return [name.decode() for name in takewhile(bool, map(self._library.folio_instructions, count()))]

    def open(self, network: QuantizedNetwork, max_rows: int, threads: int, instructions: str | None = None) -> "NativeNetwork":
        """Packs a network for an instruction set (None: the fastest). max_rows: the largest batch.

        Raises ValueError if this machine does not support the instruction set, and MemoryError.
        """
        if instructions is not None and instructions not in self.instructions:
            raise ValueError(f"this machine has no {instructions}; it has {', '.join(self.instructions)}")
        kernels = [kernel for layer in network.layers for kernel in (layer.recurrent, layer.input)] + [network.output]
        table = network.table()
        handle = self._library.folio_open(
            int(network.cell == "lstm"),
            len(network.layers),
            network.units,
            network.vocabulary,
            network.embedding.shape[1],
            max_rows,
            threads,
            None if instructions is None else instructions.encode(),
            None if table is None else table.ctypes.data,
            network.embedding.ctypes.data,
            network.embedding_scale.ctypes.data,
            (KernelPointers * len(kernels))(*map(KernelPointers.of, kernels)),
        )
        if not handle:
            raise MemoryError("not enough memory for the network")
        return NativeNetwork(self._library, handle, network)


class NativeNetwork:
    """An open network, closed when this object is deleted. Only one thread at a time may call it."""

    def __init__(self, library: Any, handle: int, network: QuantizedNetwork) -> None:
        self._library, self._handle, self._process = library, handle, os.getpid()
        self._vocabulary, self._state_shape = network.vocabulary, network.state_shape
        self.threads = int(library.folio_threads(handle))

    def __del__(self) -> None:
        if os.getpid() == self._process:
            self._library.folio_close(self._handle)

    def advance(self, states: Floats, batch: Batch, threads: int) -> tuple[NDArray[np.int32], Floats, Floats | None]:
        """Advances `states` [rows, vectors, units], the rows' states, in place. The batch's slots and starts are not used.

        Returns (chosen ids [steps, rows], snapshots [rows, vectors, units], logits [steps, rows, vocabulary] if they are needed for
        log-probabilities). A snapshot is undefined for a row without `snapshot_at`.
        """
        if os.getpid() != self._process:  # a fork, which has no other thread
            threads = 1
        steps, rows = batch.forced.shape
        types = (batch.inputs, np.int32), (batch.forced, np.int32), (batch.uniforms, np.float32)
        arrays = [np.ascontiguousarray(array, dtype) for array, dtype in types]
        table = row_table(batch, address, address)
        chosen = np.empty((steps, rows), np.int32)
        snapshots = np.empty((rows, *self._state_shape), np.float32)
        logits = np.empty((steps, rows, self._vocabulary), np.float32) if batch.top_logprobs is not None else None
        call = _Call(
            rows,
            steps,
            threads,
            states.ctypes.data,
            *(array.ctypes.data for array in arrays),
            address(table),
            chosen.ctypes.data,
            snapshots.ctypes.data,
            None if logits is None else logits.ctypes.data,
        )
        self._library.folio_advance(self._handle, byref(call))
        for b, history in batch.histories.items():
            if table["next"][b]:
                history.state, history.num_left = int(table["automaton_state"][b]), int(table["num_left"][b])
        return chosen, snapshots, logits


def address(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)


Place = Callable[[NDArray[Any]], int]  # gives an array's address


def row_table(batch: Batch, place: Place, place_constant: Place) -> NDArray[Any]:
    """An array of ROW. The arrays that its addresses point to must outlive it. place_constant: for large ones that never change."""
    table = np.zeros(len(batch.slots), ROW)
    table["inverse_temperature"] = [sampling.inverse_temperature for sampling in batch.sampling]
    table["top_p"], table["snapshot_at"] = 1, batch.snapshot_at
    for b, sampling in enumerate(batch.sampling):
        if not sampling.plain:
            _fill(Row.from_buffer(table.data, b * ROW.itemsize), sampling, batch.history(b), place, place_constant)
    return table


def _fill(row: Row, sampling: Sampling, history: History | None, place: Place, place_constant: Place) -> None:
    row.top_p, row.min_p, row.top_k = sampling.f32_top_p, sampling.min_p, min(sampling.top_k or 0, UNLIMITED)
    bias = sampling.exclusive_bias
    row.bias = None if bias is None else place(bias)
    if history is not None and sampling.penalizes:
        row.presence, row.frequency = sampling.presence_penalty, sampling.frequency_penalty
        row.repetition, row.counts = sampling.repetition_penalty, place(history.counts)
    if history is not None and sampling.automaton is not None:
        row.automaton_state, row.num_left = history.state, history.num_left
        row.alphabet, row.next = sampling.automaton.next.shape[1], place_constant(sampling.automaton.next)
        row.distance = place_constant(sampling.automaton.distance)
