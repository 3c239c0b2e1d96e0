"""Ids -> batches of inputs and targets. Does not know texts, vocabularies or networks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer.cluster import ALONE, Rank

SHUFFLE_BUFFER = 10_000

T = TypeVar("T")


def split(ids: NDArray[Any], held_out: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """(training part, held-out part). The held-out part is the last `held_out` fraction of the text."""
    at = len(ids) - round(len(ids) * held_out)
    return ids[:at], ids[at:]


@dataclass(frozen=True)
class Batches(ABC):
    """The batches of each epoch, in an order drawn from the seed. Each worker reads `batch_size` rows of a batch."""

    ids: NDArray[np.unsignedinteger]
    seq_length: int
    batch_size: int
    seed: int
    worker: Rank = ALONE

    @property
    def rows(self) -> int:
        """Rows in a batch of all workers."""
        return self.worker.world_size * self.batch_size

    @abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """The epoch's batches from number `start`: (inputs, targets), each int32 [batch_size, seq_length]."""
        return prefetched((rows[:, :-1], rows[:, 1:]) for rows in self._rows(number, start))

    @abstractmethod
    def _rows(self, number: int, start: int) -> Iterator[NDArray[np.int32]]:
        """[batch_size, seq_length + 1] for each batch of the epoch."""


class ShuffledBatches(Batches):
    """Shuffled windows of the text, as in TensorFlow's tutorial 'Text generation with an RNN'.

    The text is cut into windows of seq_length + 1 characters. A window's inputs are all but its last character, its targets all
    but its first. Characters that do not fill a window, and windows that do not fill a batch, are dropped.
    """

    @property
    def windows(self) -> int:
        return len(self.ids) // (self.seq_length + 1)

    def __len__(self) -> int:
        return self.windows // self.rows

    def _rows(self, number: int, start: int) -> Iterator[NDArray[np.int32]]:
        import tensorflow as tf

        width, mine = self.seq_length + 1, slice(self.worker.rank * self.batch_size, (self.worker.rank + 1) * self.batch_size)
        windows = self.ids[: self.windows * width].reshape(self.windows, width)
        # Each epoch has its own seed, so a run can resume at any batch of any epoch.
        order = tf.data.Dataset.range(self.windows).shuffle(SHUFFLE_BUFFER, seed=self.seed + number)
        for batch in order.batch(self.rows, drop_remainder=True).skip(start).as_numpy_iterator():
            yield windows[batch[mine]].astype(np.int32)


class ContiguousBatches(Batches):
    """Each row of a batch continues where the same row of the previous batch ended.

    The text is cut into `rows` streams of equal length. Each epoch starts at another offset, drawn from the seed. Reading wraps
    around at the text's end.
    """

    def __len__(self) -> int:
        return (len(self.ids) - 1) // (self.rows * self.seq_length)

    def _rows(self, number: int, start: int) -> Iterator[NDArray[np.int32]]:
        generator = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        offset = int(generator.integers(len(self.ids))) + self.worker.rank * self.batch_size * len(self) * self.seq_length
        for batch in range(start, len(self)):
            starts = offset + (np.arange(self.batch_size) * len(self) + batch) * self.seq_length
            positions = starts[:, None] + np.arange(self.seq_length + 1)
            yield self.ids[positions % len(self.ids)].astype(np.int32)


BATCHES: dict[str, type[Batches]] = {"streams": ContiguousBatches, "windows": ShuffledBatches}  # by --examples


def prefetched(batches: Iterator[T]) -> Iterator[T]:
    """The same batches. Another thread makes the next one while one is in use."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch
