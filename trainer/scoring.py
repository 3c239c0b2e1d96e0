"""Held-out nats per character: which predictions of a text are scored, and from which state. Knows no network, no TensorFlow.

Always two scores. `full_pass`: the state is carried over the whole text from its first character on. `cold_256`: windows of
256 characters, each from a zero state (nanoGPT's protocol). A last window that is not full is left out, unless it is the only one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.artifact import Scores
from trainer.resources import count_rows, count_steps

COLD = 256  # characters in a window
WARM_UP = 1024  # characters a row reads before those it scores

Characters = NDArray[np.int32]  # [rows, steps]
Nats = Callable[[Characters, Characters], NDArray[np.float32]]
"""(The next characters of each row, those that follow them) -> nats of the latter [rows, steps]. Carries the states on."""


@dataclass(frozen=True)
class Row:
    """A stretch of the text read from a zero state: reading begins at `start`, predictions first..end - 1 are scored."""

    start: int
    first: int
    end: int


@dataclass(frozen=True)
class Scorer:
    """Scores texts by one network."""

    begin: Callable[[int], Nats]  # for a number of rows, each with a zero state
    vocabulary: int
    stop: Event | None = None  # once it is set, scoring raises KeyboardInterrupt

    def scores(self, ids: NDArray[Any], rows: int) -> Scores:
        """Both scores of a text of at least two characters; rows: see `full_pass`."""
        return Scores(full_pass=self.full_pass(ids, rows), cold_256=self.cold(ids))

    def full_pass(self, ids: NDArray[Any], rows: int) -> float:
        """Nats per character with the state carried, the text cut into `rows` stretches that are read side by side.

        Each stretch but the first starts from the state that the 1024 characters before it give.
        """
        predictions = len(ids) - 1
        length = -(-predictions // rows)
        firsts = range(0, predictions, length)
        return self._mean(ids, (Row(max(0, first - WARM_UP), first, min(first + length, predictions)) for first in firsts))

    def cold(self, ids: NDArray[Any]) -> float:
        """Nats per character over windows of 256, each read from a zero state."""
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
        """Nats of the predictions that `rows` score, added up in float64."""
        steps = max(row.end - row.start for row in rows)
        starts = np.array([row.start for row in rows])
        firsts, ends = np.array([row.first for row in rows]), np.array([row.end for row in rows])
        nats_of, stride, total = self.begin(len(rows)), count_steps(len(rows), self.vocabulary), 0.0
        for at in range(0, steps, stride):
            if self.stop is not None and self.stop.is_set():
                raise KeyboardInterrupt
            places = starts[:, None] + np.arange(at, min(at + stride, steps))
            read, following = ids[np.minimum(np.stack([places, places + 1]), len(ids) - 1)].astype(np.int32)
            scored = (places >= firsts[:, None]) & (places < ends[:, None])
            total += float(nats_of(read, following)[scored].sum(dtype=np.float64))
        return total
