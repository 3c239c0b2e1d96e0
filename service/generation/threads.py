"""Chooses how many threads an iteration uses, from measured times.

At each step all threads wait for the slowest one. So several threads can be slower than one where another program keeps a core
busy. Waking them also takes time, which matters to an iteration of a few steps. Both numbers are timed, and the slower one is tried
again at intervals.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

TRIAL_INTERVAL = 32  # iterations of a size between trials of the slower number
DECAY = 0.7  # of the earlier sums, at each iteration
MANY_STEPS = 16  # from here on, waking threads hardly matters

Size = tuple[int, int]


class ThreadCount:
    """Chooses between one thread and `most`, separately for each size of an iteration."""

    def __init__(self, most: int) -> None:
        self._choices = sorted({1, most})
        # (Seconds, steps) by size and threads. Sums weight a long iteration more than a short one.
        self._sums: dict[tuple[Size, int], tuple[float, float]] = {}
        self._iterations: dict[Size, int] = {}

    @contextmanager
    def timed(self, steps: int, rows: int) -> Iterator[int]:
        """Yields the number of threads for an iteration and records how long it takes."""
        size = size_of(steps, rows)
        threads = self.choose(size)
        start = time.perf_counter()
        yield threads
        self.record(size, threads, steps, time.perf_counter() - start)

    def choose(self, size: Size) -> int:
        iterations = self._iterations[size] = self._iterations.get(size, -1) + 1
        best = min(self._choices, key=lambda threads: self._step_seconds(size, threads))
        others = [threads for threads in self._choices if threads != best]
        return others[0] if others and iterations % TRIAL_INTERVAL == TRIAL_INTERVAL - 1 else best

    def record(self, size: Size, threads: int, steps: int, seconds: float) -> None:
        """Records how long an iteration took. The first one of its kind does not count: its memory may not be in any cache.

        If it took more than twice the estimate, it counts as twice: one interruption should hardly change the choice. If it
        took less than half, it replaces the estimate.
        """
        if (size, threads) not in self._sums:
            self._sums[size, threads] = 0.0, 0.0
            return
        estimate, (sum_seconds, sum_steps) = self._step_seconds(size, threads), self._sums[size, threads]
        decay = DECAY if estimate < 2 * seconds / steps else 0.0
        bounded = min(seconds, 2 * estimate * steps) if estimate else seconds
        self._sums[size, threads] = decay * sum_seconds + bounded, decay * sum_steps + steps

    def _step_seconds(self, size: Size, threads: int) -> float:
        """Seconds of a step. 0 if nothing was measured, so that this number is tried."""
        seconds, steps = self._sums.get((size, threads), (0.0, 0.0))
        return seconds / steps if steps else 0.0


def size_of(steps: int, rows: int) -> Size:
    """The size of an iteration: its steps and rows, rounded to powers of two."""
    return min(steps, MANY_STEPS).bit_length(), rows.bit_length()
