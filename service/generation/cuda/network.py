"""A network on a device: its weights, its slots' states, and calls that advance some of the slots."""

import ctypes
import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.generation.backend import Batch
from service.generation.cuda.call_memory import CallMemory
from service.generation.cuda.device import Gpu
from service.generation.cuda.layout import STREAMED_SHARED, TILE, CallPointers, Memory, Resident, as_bytes, copy_network
from service.generation.native import Row, row_table
from service.generation.quantized import QuantizedNetwork

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
Rows = NDArray[Any]  # of ROW
COUNTERS = 256  # bytes of a group's counters
TAGS = 1 << 16  # a word of the mail carries one of them


class CudaNetwork:
    """Only one thread at a time may call it."""

    def __init__(self, device: Gpu, network: QuantizedNetwork, slots: int) -> None:
        """Raises CudaError."""
        device.use()
        self._device, self._network = device, network
        self._memory = Memory(device)
        pointers = copy_network(network, slots, self._memory)
        self._pointer, self._states = self._memory.put(as_bytes(pointers)), int(pointers.states)
        self._state_size = 4 * math.prod(network.state_shape)
        self._call_memory = CallMemory(self._memory)
        self._kept: dict[int, int] = {}
        self._dropped: list[int] = []
        name = f"advance_{network.cell}"
        self._streamed = device.compile("streamed.cu", {}, {name: STREAMED_SHARED})[name]
        self.resident = Resident.fit(network, device.processors, device.shared_memory)
        if self.resident:
            fit = self.resident
            self._few_and_many = device.compile(
                "resident.cu", fit.macros(network), {"advance_few": fit.few, "advance_many": fit.many}
            )
            self._mail_size = 4 * network.units * min(slots, fit.rows_of_few)
            self._mail, self._tag = self._memory.reserve(self._mail_size), 1

    def load(self, slot: int, state: Floats | None) -> None:
        """Sets a slot's state [vectors, units]. None: zeros."""
        self._device.use()
        place = self._states + slot * self._state_size
        if state is None:
            self._device.clear(place, self._state_size)
        else:
            self._device.write(place, np.ascontiguousarray(state, np.float32))

    def state(self, slot: int) -> Floats:
        """A slot's state [vectors, units]."""
        self._device.use()
        state = np.empty(self._network.state_shape, np.float32)
        self._device.read(self._states + slot * state.nbytes, state)
        return state

    def advance(self, batch: Batch) -> tuple[Ids, Floats, Floats | None]:
        """Advances the states of the batch's slots. See `NativeNetwork.advance`. Raises CudaError."""
        steps, rows = batch.forced.shape
        if not (batch.inputs.min() >= 0 and max(batch.inputs.max(), batch.forced.max()) < self._network.vocabulary):
            raise ValueError("an input is not in the vocabulary")
        self._device.use()
        while self._dropped:
            self._memory.free(self._dropped.pop())
        chosen = np.empty((steps, rows), np.int32)
        snapshots = np.empty((rows, *self._network.state_shape), np.float32)
        logits = np.empty((steps, rows, self._network.vocabulary), np.float32) if batch.top_logprobs is not None else None
        for resident, places in self._parts(batch):
            part = batch if len(places) == rows else batch.part(places)
            call, table = self._launch(resident, part)
            self._read(call, part, places, chosen, snapshots, logits)
            if part.histories:
                _update(part, chosen[:, places], self._read_rows(call, table))
        return chosen, snapshots, logits

    def _parts(self, batch: Batch) -> Iterator[tuple[bool, NDArray[np.intp]]]:
        """Divides the rows: (whether resident.cu advances them, otherwise streamed.cu; rows)."""
        plain = np.array([sampling.plain for sampling in batch.sampling])
        # A second launch costs a few rows more than it saves them.
        if not self.resident or batch.top_logprobs is not None or (not plain.all() and len(plain) <= self.resident.rows_of_few):
            plain[:] = False
        for resident in (True, False):
            if (places := np.flatnonzero(plain == resident)).size:
                yield resident, places

    def _launch(self, resident: bool, batch: Batch) -> tuple[CallPointers, Rows]:
        steps, rows = batch.forced.shape
        call, memory = CallPointers(rows, steps), self._call_memory
        memory.begin(self._size_of(batch))
        arrays = batch.slots, batch.inputs, batch.forced, batch.uniforms
        call.slots, call.inputs, call.forced, call.uniforms = map(memory.add, arrays)
        table = row_table(batch, memory.add, self._keep)
        call.row = memory.add(table)
        call.arrivals = memory.add(np.zeros(COUNTERS * self._groups, np.uint8))
        pointer = memory.add(as_bytes(call))
        call.chosen = memory.reserve(4 * steps * rows)
        call.snapshots = memory.reserve(self._state_size * rows) if (batch.snapshot_at >= 0).any() else None
        call.logits = memory.reserve(4 * steps * rows * self._network.vocabulary) if batch.top_logprobs is not None else None
        kernel, blocks, shared = self._kernel(resident, call)
        memory.send()
        self._device.launch(kernel, blocks, shared, self._pointer, pointer)
        return call, table

    @property
    def _groups(self) -> int:
        return self.resident.groups if self.resident else 1

    def _size_of(self, batch: Batch) -> int:
        """At least the bytes of a call."""
        rows, vocabulary = len(batch.slots), self._network.vocabulary
        size = 12 * batch.forced.size + (8 + ctypes.sizeof(Row)) * rows + COUNTERS * self._groups + ctypes.sizeof(CallPointers)
        size += sum(4 * vocabulary * ((s.exclusive_bias is not None) + 2 * s.penalizes) + 32 for s in batch.sampling if not s.plain)
        size += self._state_size * rows if (batch.snapshot_at >= 0).any() else 0
        size += 4 * batch.forced.size * vocabulary if batch.top_logprobs is not None else 0
        return size + 16 * 16  # each is rounded up

    def _kernel(self, resident: bool, call: CallPointers) -> tuple[Any, int, int]:
        """(Kernel, blocks, bytes of shared memory of a block)."""
        fit = self.resident
        if not resident or fit is None:
            tiles = -(-call.rows // TILE)
            tasks = max(call.rows, tiles * -(-self._network.units // 8), tiles * -(-self._network.vocabulary // 8))
            return self._streamed, min(self._device.processors, tasks), STREAMED_SHARED
        groups = min(call.rows, fit.groups)
        if call.rows > fit.rows_of_few or call.steps >= TAGS - 1:
            return self._few_and_many["advance_many"], groups * fit.blocks, fit.many
        if self._tag + call.steps >= TAGS:
            self._device.clear(self._mail, self._mail_size)
            self._tag = 1
        call.mail, call.tag = self._mail, self._tag
        self._tag += call.steps + 1
        return self._few_and_many["advance_few"], groups * fit.blocks, fit.few

    def _keep(self, array: NDArray[Any]) -> int:
        """The address of a copy that stays on the device for as long as the array lives."""
        key = id(array)
        if key not in self._kept:
            self._kept[key] = self._memory.put(array)
            weakref.finalize(array, _drop, self._kept, self._dropped, key)
        return self._kept[key]

    def _read(
        self, call: CallPointers, part: Batch, places: NDArray[np.intp], chosen: Ids, snapshots: Floats, logits: Floats | None
    ) -> None:
        """Reads a call's results into those of all rows. places: where the part's rows are among them."""
        all_rows = part.forced.shape == chosen.shape
        ids = chosen if all_rows else np.empty(part.forced.shape, np.int32)
        self._device.read(call.chosen, ids)
        if not all_rows:
            chosen[:, places] = ids
        for b in np.flatnonzero(part.snapshot_at >= 0).tolist():
            self._device.read(call.snapshots + b * self._state_size, snapshots[places[b]])
        if logits is not None:
            self._device.read(call.logits, logits)  # a call that wants logits has one part

    def _read_rows(self, call: CallPointers, table: Rows) -> Rows:
        """The rows after the call, if one of them has an automaton."""
        if table["next"].any():
            self._device.read(call.row, table)
        return table


def _update(batch: Batch, chosen: Ids, rows: Rows) -> None:
    """Updates the histories as the device did its copies."""
    for b, history in batch.histories.items():
        if rows["counts"][b]:
            sampled = chosen[batch.forced[:, b] < 0, b]
            known = sampled[(sampled >= 0) & (sampled < history.vocabulary)]
            history.counts[1] += np.bincount(known, minlength=history.vocabulary).astype(np.int32)
        if rows["next"][b]:
            history.state, history.num_left = int(rows["automaton_state"][b]), int(rows["num_left"][b])


def _drop(kept: dict[int, int], dropped: list[int], key: int) -> None:
    dropped.append(kept.pop(key))  # freed by the next call, because this runs in any thread
