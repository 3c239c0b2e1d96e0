"""The base class of the exact backends, and the backends of a CPU, `native` and `reference`, which keep the slots' states."""

from abc import ABC, abstractmethod
from typing import cast

import numpy as np
from numpy.typing import NDArray

from service.generation import reference
from service.generation.backend import Batch, Decoded, LogProbabilities
from service.generation.native import Library
from service.generation.quantized import quantize
from service.generation.sampling import Sampling
from service.generation.threads import ThreadCount
from trainer.artifact import Architecture, Tensors
from trainer.resources import cores

Floats = NDArray[np.float32]
UNKNOWN = np.float32(-9999)  # the log-probability of an id outside the vocabulary, as in OpenAI's API


class Exact(ABC):
    """See `service.generation.backend.Backend`. All backends of this kind give the same bits, on every machine."""

    precision = "int8"
    arithmetic = "exact"

    def decode(self, batch: Batch) -> Decoded:
        chosen, snapshots, logits = self._advance(batch)
        by_row = {int(row): snapshots[row].copy() for row in np.flatnonzero(batch.snapshot_at >= 0)}
        top, rows = batch.top_logprobs, batch.logprob_rows
        if logits is None or top is None:
            return Decoded(chosen, by_row, None)
        if rows is None or len(rows) == len(batch.slots):
            return Decoded(chosen, by_row, log_probabilities(logits, chosen, top))
        return Decoded(chosen, by_row, log_probabilities(logits[:, rows], chosen[:, rows], top))

    def read(self, slots: NDArray[np.int32], characters: NDArray[np.int32], fresh: NDArray[np.bool_]) -> Floats:
        """Reads one character in each slot, from a zero state where `fresh`. Returns logits [B, vocabulary]. Arguments: [B]."""
        starts = dict.fromkeys(np.flatnonzero(fresh).tolist())
        forced, uniforms = np.zeros((1, len(slots)), np.int32), np.zeros((1, len(slots)), np.float32)
        snapshot_at = np.full(len(slots), -1, np.int32)
        batch = Batch(slots, starts, characters, forced, uniforms, [Sampling()] * len(slots), snapshot_at, top_logprobs=0)
        logits = cast("Floats", self._advance(batch)[2])
        return logits.reshape(len(slots), -1)

    @abstractmethod
    def _advance(self, batch: Batch) -> tuple[NDArray[np.int32], Floats, Floats | None]:
        """Advances the batch's slots. Raises KeyError if a row lacks the history that its sampling needs.

        Returns (chosen ids [K, B], snapshots [B, vectors, units], logits [K, B, vocabulary] if log-probabilities are requested).
        A snapshot is undefined for a row without `snapshot_at`.
        """


class ExactBackend(Exact):
    """The backends `native` and `reference`."""

    def __init__(
        self, architecture: Architecture, tensors: Tensors, slots: int, library: Library | None, instructions: str | None = None
    ) -> None:
        """library: the built kernel; None computes the step in NumPy. instructions: see `Library.open`, which may raise."""
        self.name = "reference" if library is None else "native"
        self.slots = slots
        self._network = quantize(architecture, tensors)
        self._states = np.zeros((slots, *self._network.state_shape), np.float32)
        self._native = None if library is None else library.open(self._network, slots, cores(), instructions)
        self._threads = ThreadCount(self._native.threads if self._native else 1)

    def _advance(self, batch: Batch) -> tuple[NDArray[np.int32], Floats, Floats | None]:
        states = self._states[batch.slots]
        for row, start in batch.starts.items():
            states[row] = 0 if start is None else start
        if self._native is None:
            result = reference.advance(self._network, states, batch)
        else:
            with self._threads.timed(*batch.forced.shape) as threads:
                result = self._native.advance(states, batch, threads)
        self._states[batch.slots] = states
        return result


def log_probabilities(logits: Floats, chosen: NDArray[np.int32], top: int) -> LogProbabilities:
    """From logits [K, B, vocabulary] and the chosen ids [K, B]. UNKNOWN for an id outside the vocabulary. Overwrites the logits."""
    logits -= logits.max(-1, keepdims=True)
    known = (chosen >= 0) & (chosen < logits.shape[-1])
    ids = np.where(known, chosen, 0)[..., None].astype(np.int64)
    own = np.take_along_axis(logits, ids, -1)
    total = np.log(np.exp(logits, out=None if top else logits).sum(-1, keepdims=True))  # in place if possible, to save memory
    own = np.where(known, (own - total)[..., 0], UNKNOWN)
    if top == 0:  # ranking all of a large vocabulary would take longer than the step
        return LogProbabilities(own, np.empty((*chosen.shape, 0), np.int32), np.empty((*chosen.shape, 0), np.float32))
    logits -= total
    top_ids = np.argsort(-logits, axis=-1, kind="stable")[..., :top]
    return LogProbabilities(own, top_ids.astype(np.int32), np.take_along_axis(logits, top_ids, -1))
