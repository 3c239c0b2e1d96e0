"""Held-out nats per character: which predictions of a text are scored, and from which state. Does not know networks or TensorFlow.

There are always two scores. `full_pass` carries the state over the whole text. `cold_256` reads windows of 256 characters, each
from a zero state, as nanoGPT does. It drops an incomplete last window, unless that is the only one.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from threading import Event
from typing import Any, NamedTuple

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
Begin = Callable[[int], Nats]  # takes a number of rows and starts each from a zero state


def count_rows(vocabulary: int) -> int:
    """The number of rows scored in parallel with a vocabulary of this size."""
    return max(1, min(MAX_ROWS, MAX_LOGITS // vocabulary))


def count_steps(rows: int, vocabulary: int) -> int:
    """The number of characters of each row that one call scores."""
    return max(1, min(MAX_STEPS, MAX_LOGITS // (rows * vocabulary)))


def averaged(begins: Sequence[Begin]) -> Begin:
    """Scores the average of several networks' probabilities, which all read the same characters."""

    def begin(rows: int) -> Nats:
        members = [begin(rows) for begin in begins]

        def nats(read: Characters, following: Characters) -> NDArray[np.float32]:
            each = np.stack([member(read, following) for member in members]).astype(np.float64)
            mean: NDArray[np.float64] = np.log(len(each)) - np.logaddexp.reduce(-each, axis=0)
            return mean.astype(np.float32)

        return nats

    return begin if len(begins) > 1 else begins[0]


class Row(NamedTuple):
    """A part of the text, read from a zero state at `start`. Predictions first..end - 1 are scored."""

    start: int
    first: int
    end: int


def score(ids: NDArray[Any], begin: Begin, vocabulary: int, rows: int, stop: Event | None = None) -> Scores:
    """Both scores of a text of at least two characters. vocabulary: its size. Raises KeyboardInterrupt once `stop` is set.

    For full_pass, the text is cut into `rows` parts, which are read in parallel. Each part except the first warms up its state
    on the 1024 characters before it.
    """
    predictions = len(ids) - 1
    length, window = -(-predictions // rows), min(COLD, predictions)
    parts = (Row(max(0, at - WARM_UP), at, min(at + length, predictions)) for at in range(0, predictions, length))
    windows = (Row(at, at, at + window) for at in range(0, predictions - window + 1, window))
    full_pass, cold = (_mean(ids, begin, vocabulary, part, stop) for part in (parts, windows))
    return Scores(full_pass=full_pass, cold_256=cold)


def _mean(ids: NDArray[Any], begin: Begin, vocabulary: int, rows: Iterator[Row], stop: Event | None) -> float:
    total, scored = 0.0, 0
    while group := list(islice(rows, count_rows(vocabulary))):
        total += _sum(ids, begin(len(group)), count_steps(len(group), vocabulary), group, stop)
        scored += sum(row.end - row.first for row in group)
    return total / scored


def _sum(ids: NDArray[Any], nats_of: Nats, stride: int, rows: Sequence[Row], stop: Event | None) -> float:
    """The nats of all predictions that the rows score, added up in float64. stride: characters of each row in one call."""
    starts, firsts, ends = np.array(rows).T
    total, steps = 0.0, int((ends - starts).max())
    for at in range(0, steps, stride):
        if stop is not None and stop.is_set():
            raise KeyboardInterrupt
        positions = starts[:, None] + np.arange(at, min(at + stride, steps))
        read, following = ids[np.minimum(np.stack([positions, positions + 1]), len(ids) - 1)].astype(np.int32)
        scored = (positions >= firsts[:, None]) & (positions < ends[:, None])
        total += float(nats_of(read, following)[scored].sum(dtype=np.float64))
    return total
