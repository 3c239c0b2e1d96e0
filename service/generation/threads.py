"""How many threads a call takes: what has been measured to be fastest, never slower than one.

More threads lose where another program keeps a core busy: all wait for the slowest at each step. So both ways are timed, and the
slower one is tried again now and then.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN = 32  # calls of a size between two trials of the slower way
KEPT = 0.7  # of what was measured before, at each call


class ThreadCount:
    """Chooses between one thread and `most`, for each size of batch by itself."""

    def __init__(self, most: int) -> None:
        self._choices = sorted({1, most})
        # (Seconds, steps) by the batch size's power of two and the threads. So a long call counts for more than a short one, most
        # of which is its beginning.
        self._sums: dict[tuple[int, int], tuple[float, float]] = {}
        self._calls: dict[int, int] = {}

    @contextmanager
    def timed(self, steps: int, rows: int) -> Iterator[int]:
        """The number of threads for a call, which is timed."""
        size = rows.bit_length()
        threads = self.choose(size)
        start = time.perf_counter()
        yield threads
        self.measured(size, threads, steps, time.perf_counter() - start)

    def choose(self, size: int) -> int:
        calls = self._calls[size] = self._calls.get(size, -1) + 1
        best = min(self._choices, key=lambda threads: self._step_seconds(size, threads))
        others = [threads for threads in self._choices if threads != best]
        return others[0] if others and calls % AGAIN == AGAIN - 1 else best

    def measured(self, size: int, threads: int, steps: int, seconds: float) -> None:
        spent, done = self._sums.get((size, threads), (0.0, 0.0))
        self._sums[size, threads] = KEPT * spent + seconds, KEPT * done + steps

    def _step_seconds(self, size: int, threads: int) -> float:
        """0 where nothing was measured, so that it is tried."""
        seconds, steps = self._sums.get((size, threads), (0.0, 1.0))
        return seconds / steps
