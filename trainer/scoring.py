"""Held-out nats per character: which predictions of a text are scored, and from which state. Does not know networks or TensorFlow.

There are always two scores. `full_pass` carries the state over the whole text. `cold_256` reads windows of 256 characters, each
from a zero state, as nanoGPT does. It drops an incomplete last window, unless that is the only one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.artifact import Scores

COLD = 256  # characters in a window
WARM_UP = 1024  # characters that a row reads before those that it scores
MAX_ROWS = 64  # scored in parallel
MAX_STEPS = 128  # characters of each row in one call
MAX_LOGITS = 1 << 24  # in one call: 64 MiB, whatever the vocabulary's size

Characters = NDArray[np.int32]  # [rows, steps]
Nats = Callable[[Characters, Characters], NDArray[np.float32]]
"""(characters to read, characters to predict) -> nats of each prediction, [rows, steps]. Keeps the states between calls."""


def count_rows(vocabulary: int) -> int:
    """The number of rows scored in parallel with a vocabulary of this size."""
    return max(1, min(MAX_ROWS, MAX_LOGITS // vocabulary))


def count_steps(rows: int, vocabulary: int) -> int:
    """The number of characters of each row that one call scores."""
    return max(1, min(MAX_STEPS, MAX_LOGITS // (rows * vocabulary)))


@dataclass(frozen=True)
class Row:
    """A part of the text, read from a zero state at `start`. Predictions first..end - 1 are scored."""

    start: int
    first: int
    end: int


@dataclass(frozen=True)
class Scorer:
    """Scores texts with one network."""

    begin: Callable[[int], Nats]  # takes a number of rows and starts each from a zero state
    vocabulary: int
    stop: Event | None = None  # scoring raises KeyboardInterrupt once it is set

    def scores(self, ids: NDArray[Any], rows: int) -> Scores:
        """Both scores of a text of at least two characters. rows: see `full_pass`."""
        return Scores(full_pass=self.full_pass(ids, rows), cold_256=self.cold(ids))

    def full_pass(self, ids: NDArray[Any], rows: int) -> float:
        """Nats per character with the state carried. The text is cut into `rows` parts, which are read in parallel.

        Each part except the first warms up its state on the 1024 characters before it.
        """
        predictions = len(ids) - 1
        length = -(-predictions // rows)
        firsts = range(0, predictions, length)
        return self._mean(ids, (Row(max(0, first - WARM_UP), first, min(first + length, predictions)) for first in firsts))

    def cold(self, ids: NDArray[Any]) -> float:
        """Nats per character over windows of 256 characters, each from a zero state."""
        predictions = len(ids) - 1
        length = min(COLD, predictions)
        firsts = range(0, predictions - length + 1, length)
        return self._mean(ids, (Row(first, first, first + length) for first in firsts))

    def _mean(self, ids: NDArray[Any], rows: Iterable[Row]) -> float:
        total, scored, rows = 0.0, 0, iter(rows)
        while group := list(islice(rows, count_rows(self.vocabulary))):
            total += self._sum(ids, group)
            scored += sum(row.end - row.first for row in group)
        return total / scored

    def _sum(self, ids: NDArray[Any], rows: Sequence[Row]) -> float:
        """The nats of all predictions that the rows score, added up in float64."""
        steps = max(row.end - row.start for row in rows)
        starts = np.array([row.start for row in rows])
        firsts, ends = np.array([row.first for row in rows]), np.array([row.end for row in rows])
        nats_of, stride, total = self.begin(len(rows)), count_steps(len(rows), self.vocabulary), 0.0
        for at in range(0, steps, stride):
            if self.stop is not None and self.stop.is_set():
                raise KeyboardInterrupt
            positions = starts[:, None] + np.arange(at, min(at + stride, steps))
            read, following = ids[np.minimum(np.stack([positions, positions + 1]), len(ids) - 1)].astype(np.int32)
            scored = (positions >= firsts[:, None]) & (positions < ends[:, None])
            total += float(nats_of(read, following)[scored].sum(dtype=np.float64))
        return total
