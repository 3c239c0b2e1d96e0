"""The processes that train one network together: one of them usually, several where TF_CONFIG names a cluster.

Each has all weights and rows of its own; gradients are averaged by TensorFlow's collectives
(`tf.distribute.MultiWorkerMirroredStrategy`), so that all take the same step. Worker 0, the chief, saves and publishes.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from trainer.config import cluster_position

LOST = tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError


class Parted(Exception):
    """Another worker is gone."""


class Apart(Exception):
    """This worker is elsewhere than worker 0."""


@contextmanager
def together() -> Iterator[None]:
    """Raises Parted where TensorFlow's collectives fail because another worker is gone."""
    try:
        yield
    except LOST as error:
        raise Parted from error


class Workers:
    """All workers, seen from this one. Every method but `run` is called by all of them, in the same order."""

    def __init__(self) -> None:
        """Waits until all workers are there. Nothing else may have used TensorFlow in this process before."""
        self.count, self.index = cluster_position()
        cluster = tf.distribute.MultiWorkerMirroredStrategy if self.count > 1 else tf.distribute.get_strategy
        self._strategy = cluster()
        self._rows = tf.function(lambda tensor: self.run(self._gathered, tensor))
        self._sum = tf.function(lambda tensor: self.run(self._summed, tensor))

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls `function`, in which `mean` may be used."""
        return self._strategy.run(function, arguments)

    def mean(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The mean over the workers of each tensor."""
        if self.count == 1:
            return list(tensors)
        here = [tf.identity(tensor) for tensor in tensors]  # on this device, also what came in from outside
        return list(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, here))

    def rows(self, tensor: tf.Tensor) -> tf.Tensor:
        """The workers' tensors one after the other, along the first axis."""
        return tensor if self.count == 1 else self._rows(tensor)

    def check_agreement(self, parts: Iterable[bytes]) -> None:
        """Raises Apart unless these bytes are the chief's too."""
        mine = 0
        for part in parts:
            mine = zlib.crc32(part, mine)
        if mine != self.chiefs(mine):
            raise Apart(f"worker {self.index} is not where worker 0 is: start all with the same options on the same text")

    def chiefs(self, value: float) -> float:
        """The chief's `value`, at all workers."""
        return value if self.count == 1 else float(self._sum(tf.constant(0.0 if self.index else value, tf.float64)))

    @staticmethod
    def _gathered(tensor: tf.Tensor) -> tf.Tensor:
        return tf.distribute.get_replica_context().all_gather(tf.identity(tensor), 0)

    @staticmethod
    def _summed(tensor: tf.Tensor) -> tf.Tensor:
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(tensor))
