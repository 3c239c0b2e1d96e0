"""The step in C (kernel/), called through ctypes, which releases the GIL during a call."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int32, c_void_p
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.generation.quantized import Kernel, QuantizedNetwork
from service.generation.sampling import History, Sampling

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
        ("wants_logits", c_int32),
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
        library.folio_instructions.restype = library.folio_name.restype = c_char_p
        library.folio_open.restype = c_void_p
        library.folio_open.argtypes = [*[c_int] * 7, c_char_p, c_void_p, c_void_p, c_void_p, POINTER(KernelPointers)]
        library.folio_advance.argtypes = [c_void_p, POINTER(_Call)]
        library.folio_advance.restype = None
        for function in (library.folio_close, library.folio_threads, library.folio_name):
            function.argtypes = [c_void_p]

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
        self._library, self._handle = library, handle
        self._vocabulary, self._state_shape = network.vocabulary, network.state_shape
        self.threads = int(library.folio_threads(handle))
        self.instructions = library.folio_name(handle).decode()

    def __del__(self) -> None:
        self._library.folio_close(self._handle)

    def advance(
        self,
        states: Floats,
        inputs: NDArray[np.int32],
        forced: NDArray[np.int32],
        uniforms: Floats,
        samplings: Sequence[Sampling],
        histories: Mapping[int, History],
        snapshot_at: NDArray[np.int32],
        wants_logits: NDArray[np.bool_],
        threads: int,
    ) -> tuple[NDArray[np.int32], Floats, Floats | None]:
        """Advances `states` [rows, vectors, units] in place. The other arguments are those of `Batch`, by row or by step and row.

        Returns (chosen ids [steps, rows], states after `snapshot_at` steps [rows, vectors, units], logits [steps, rows, vocabulary]
        if a row wants them). Snapshots and logits are undefined for rows that did not request them.
        """
        steps, rows = forced.shape
        arrays = [np.ascontiguousarray(a, t) for a, t in ((inputs, np.int32), (forced, np.int32), (uniforms, np.float32))]
        table = plain_rows(samplings)
        for b, sampling in enumerate(samplings):
            if b in histories or not sampling.plain:
                fill_row(Row.from_buffer(table.data, b * ROW.itemsize), sampling, histories.get(b), address, address)
        table["snapshot_at"], table["wants_logits"] = snapshot_at, wants_logits
        chosen = np.empty((steps, rows), np.int32)
        snapshots = np.empty((rows, *self._state_shape), np.float32)
        logits = np.empty((steps, rows, self._vocabulary), np.float32) if wants_logits.any() else None
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
        for b, history in histories.items():
            history.state, history.num_left = int(table["automaton_state"][b]), int(table["num_left"][b])
        return chosen, snapshots, logits


def address(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)


Place = Callable[[NDArray[Any]], int]  # gives an array's address


def plain_rows(samplings: Sequence[Sampling]) -> NDArray[Any]:
    """An array of ROW with the temperatures, the only options of plain rows. `fill_row` sets those of the others."""
    table = np.zeros(len(samplings), ROW)
    table["inverse_temperature"], table["top_p"] = [sampling.inverse_temperature for sampling in samplings], 1
    return table


def fill_row(row: Row, sampling: Sampling, history: History | None, place: Place, place_constant: Place) -> None:
    """Fills in a row's sampling options. Their arrays must outlive the row. place_constant: for large ones that never change."""
    row.inverse_temperature = sampling.inverse_temperature
    row.top_p, row.min_p, row.top_k = max(sampling.top_p, 1e-30), sampling.min_p, sampling.top_k or 0
    bias = sampling.exclusive_bias
    row.bias = None if bias is None else place(bias)
    if history is not None:
        row.automaton_state, row.num_left = history.state, history.num_left
    if history is not None and sampling.penalizes:
        row.presence, row.frequency = sampling.presence_penalty, sampling.frequency_penalty
        row.repetition, row.counts = sampling.repetition_penalty, place(history.counts)
    if history is not None and sampling.automaton is not None:
        row.alphabet, row.next = sampling.automaton.next.shape[1], place_constant(sampling.automaton.next)
        row.distance = place_constant(sampling.automaton.distance)
