"""Ids -> batches of inputs and targets. Does not know texts, vocabularies or networks."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer.cluster import ALONE, Rank

if TYPE_CHECKING:
    import tensorflow as tf

SHUFFLE_BUFFER = 10_000


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

    @abstractmethod
    def epoch(self, number: int, start: int = 0) -> "tf.data.Dataset":
        """The epoch's batches from number `start`: (inputs, targets), each int32 [batch_size, seq_length]."""


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

    def epoch(self, number: int, start: int = 0) -> "tf.data.Dataset":
        import tensorflow as tf

        # Each epoch has its own seed, so a run can resume at any batch of any epoch.
        order = tf.data.Dataset.range(self.windows).shuffle(SHUFFLE_BUFFER, seed=self.seed + number)
        return _dataset(order.batch(self.rows, drop_remainder=True).skip(start), self._read)

    def _read(self, windows: NDArray[np.int64]) -> NDArray[np.int32]:
        width, mine = self.seq_length + 1, windows[self.worker.rank * self.batch_size :][: self.batch_size]
        rows: NDArray[np.int32] = self.ids[: self.windows * width].reshape(self.windows, width)[mine].astype(np.int32)
        return rows


class ContiguousBatches(Batches):
    """Each row of a batch continues where the same row of the previous batch ended.

    The text is cut into `rows` streams of equal length. Each epoch starts at another offset, drawn from the seed. Reading wraps
    around at the text's end.
    """

    def __len__(self) -> int:
        return (len(self.ids) - 1) // (self.rows * self.seq_length)

    def epoch(self, number: int, start: int = 0) -> "tf.data.Dataset":
        import tensorflow as tf

        generator = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        offset = int(generator.integers(len(self.ids))) + self.worker.rank * self.batch_size * len(self) * self.seq_length

        def read(batch: NDArray[np.int64]) -> NDArray[np.int32]:
            starts = offset + (np.arange(self.batch_size) * len(self) + batch) * self.seq_length
            positions = starts[:, None] + np.arange(self.seq_length + 1)
            rows: NDArray[np.int32] = self.ids[positions % len(self.ids)].astype(np.int32)
            return rows

        return _dataset(tf.data.Dataset.range(start, len(self)), read)


BATCHES: dict[str, type[Batches]] = {"streams": ContiguousBatches, "windows": ShuffledBatches}  # by --examples


def _dataset(keys: "tf.data.Dataset", read: Callable[[NDArray[np.int64]], NDArray[np.int32]]) -> "tf.data.Dataset":
    """(inputs, targets) of the rows that `read` returns for each key. A background thread prefetches them."""
    import tensorflow as tf

    def split_rows(key: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        characters = tf.ensure_shape(tf.numpy_function(read, [key], tf.int32), (None, None))
        return characters[:, :-1], characters[:, 1:]

    return keys.map(split_rows).prefetch(2)
