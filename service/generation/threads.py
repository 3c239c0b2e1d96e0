"""How many threads a call takes: what has been measured to be fastest, never slower than one.

More threads lose where another program keeps a core busy: all wait for the slowest at each step. So both ways are timed, and the
slower one is tried again now and then.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN = 32  # calls of a size between two trials of the slower way
WEIGHT = 0.3  # of the latest call in a moving average


class ThreadCount:
    """Chooses between one thread and `most`, for each size of batch by itself."""

    def __init__(self, most: int) -> None:
        self._choices = sorted({1, most})
        self._seconds: dict[tuple[int, int], float] = {}  # a step's, by the batch size's power of two and the threads
        self._calls: dict[int, int] = {}

    @contextmanager
    def timed(self, steps: int, rows: int) -> Iterator[int]:
        """The number of threads for a call, which is timed."""
        size = rows.bit_length()
        threads = self.choose(size)
        start = time.perf_counter()
        yield threads
        self.measured(size, threads, (time.perf_counter() - start) / steps)

    def choose(self, size: int) -> int:
        calls = self._calls[size] = self._calls.get(size, -1) + 1
        best = min(self._choices, key=lambda threads: self._seconds.get((size, threads), 0.0))
        others = [threads for threads in self._choices if threads != best]
        return others[0] if others and calls % AGAIN == AGAIN - 1 else best

    def measured(self, size: int, threads: int, seconds: float) -> None:
        before = self._seconds.get((size, threads), seconds)
        self._seconds[size, threads] = before + WEIGHT * (seconds - before)
