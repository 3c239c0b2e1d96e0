"""The backends of the exact step on a CPU, `native` and `reference`. They keep the slots' states and compute log-probabilities."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from service.generation import reference
from service.generation.backend import MAX_TOP_LOGPROBS, Batch, Decoded, LogProbabilities, Precision
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

    precision: Precision = "int8"
    arithmetic = "exact"

    def decode(self, batch: Batch) -> Decoded:
        chosen, snapshots, logits = self._advance(batch)
        by_row = {int(row): snapshots[row].copy() for row in np.flatnonzero(batch.snapshot_at >= 0)}
        return Decoded(chosen, by_row, None if logits is None else log_probabilities(logits, chosen))

    def score(self, batch: Batch) -> Floats:
        """Advances the batch's slots like `decode`, but returns only the chosen characters' log-probabilities [K, B].

        No row may have an automaton. Faster than `decode`: ranking all of a large vocabulary takes longer than the step.
        """
        chosen, _, logits = self._advance(replace(batch, log_probabilities=True))
        return chosen_log_probabilities(cast("Floats", logits), chosen)

    def read(self, slots: NDArray[np.int32], characters: NDArray[np.int32], fresh: NDArray[np.bool_]) -> Floats:
        """Reads one character in each slot, from a zero state where `fresh`. Returns logits [B, vocabulary]. Arguments: [B]."""
        starts = dict.fromkeys(np.flatnonzero(fresh).tolist())
        forced, uniforms = np.zeros((1, len(slots)), np.int32), np.zeros((1, len(slots)), np.float32)
        snapshot_at = np.full(len(slots), -1, np.int32)
        batch = Batch(slots, starts, characters, forced, uniforms, [Sampling()] * len(slots), snapshot_at, log_probabilities=True)
        logits = cast("Floats", self._advance(batch)[2])
        return logits.reshape(len(slots), -1)

    @abstractmethod
    def _advance(self, batch: Batch) -> tuple[NDArray[np.int32], Floats, Floats | None]:
        """Advances the batch's slots. Raises ValueError if a row lacks the history that its sampling needs.

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
        check_histories(batch)
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


def check_histories(batch: Batch) -> None:
    """Raises ValueError if a row lacks the history that its sampling needs."""
    if any(row.needs_history and b not in batch.histories for b, row in enumerate(batch.sampling)):
        raise ValueError("a row with penalties or an automaton has no history")


def log_probabilities(logits: Floats, chosen: NDArray[np.int32]) -> LogProbabilities:
    """From logits [K, B, vocabulary] and the chosen ids [K, B]. UNKNOWN for an id outside the vocabulary."""
    shifted = logits - logits.max(-1, keepdims=True)
    values = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    count = min(MAX_TOP_LOGPROBS, values.shape[-1])
    top_ids = np.argsort(-values, axis=-1, kind="stable")[..., :count].astype(np.int32)
    known = (chosen >= 0) & (chosen < values.shape[-1])
    ids = np.where(known, chosen, 0)[..., None].astype(np.int64)
    own = np.where(known, np.take_along_axis(values, ids, -1)[..., 0], UNKNOWN)
    return LogProbabilities(own, top_ids, np.take_along_axis(values, top_ids.astype(np.int64), -1))


def chosen_log_probabilities(logits: Floats, chosen: NDArray[np.int32]) -> Floats:
    """The same bits as `log_probabilities(logits, chosen).chosen`. Overwrites the logits, to save memory."""
    logits -= logits.max(-1, keepdims=True)
    own = np.take_along_axis(logits, chosen[..., None].astype(np.int64), -1)[..., 0]
    totals: Floats = np.exp(logits, out=logits).sum(-1)
    return own - np.log(totals)
