"""The processes that train one network together: usually one, several where TF_CONFIG names a cluster.

Each holds all the weights and reads rows of its own; TensorFlow's collectives (`tf.distribute.MultiWorkerMirroredStrategy`)
average the gradients, so that all take the same step. Worker 0, the chief, saves and publishes.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import tensorflow as tf

COLLECTIVES_FAILED = tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError


class WorkerLost(Exception):
    """Another worker is gone; the message is TensorFlow's."""


class WorkersDisagree(Exception):
    """This worker's options, text, position or weights differ from worker 0's."""


class Workers:
    """All workers, seen from this one. `mean` only inside `run`; all workers must make the same calls in the same order."""

    def __init__(self, count: int = 1, index: int = 0) -> None:
        """Waits until all `count` workers of TF_CONFIG are there. Nothing in this process may have used TensorFlow before."""
        self.count, self.index = count, index
        cluster = tf.distribute.MultiWorkerMirroredStrategy if self.count > 1 else tf.distribute.get_strategy
        self._strategy = cluster()
        self._gather = tf.function(lambda tensor: self.run(_gather, tensor), autograph=False)
        self._sum = tf.function(lambda tensor: self.run(_sum, tensor), autograph=False)

    @contextmanager
    def raising_worker_lost(self) -> Iterator[None]:
        """Raises WorkerLost where TensorFlow's collectives fail. One worker has none to lose: its errors stay what they are."""
        try:
            yield
        except COLLECTIVES_FAILED as error:
            if self.count == 1:
                raise
            raise WorkerLost(error.message.partition("\n")[0]) from error

    def wait_for_chief(self) -> None:
        """Returns once the chief has called it too, so that all workers leave at the same time.

        TensorFlow logs the loss of a worker that leaves while the chief is still busy. Raises WorkerLost, but not for the
        chief, which has done its work when it calls this.
        """
        with suppress(*[WorkerLost] if self.index == 0 else []), self.raising_worker_lost():
            self.from_chief(0.0)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls `function`, in which `mean` may be used."""
        return self._strategy.run(function, arguments)

    def mean(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The mean over the workers of each tensor."""
        if self.count == 1:
            return list(tensors)
        here = [tf.identity(tensor) for tensor in tensors]  # on this device, also what came in from outside
        return list(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, here))

    def gather_rows(self, tensor: tf.Tensor) -> tf.Tensor:
        """The workers' tensors one after the other, along the first axis."""
        return tensor if self.count == 1 else self._gather(tensor)

    def check_agreement(self, parts: Iterable[bytes]) -> None:
        """Raises WorkersDisagree unless worker 0 calls it with the same bytes."""
        mine = 0
        for part in parts:
            mine = zlib.crc32(part, mine)
        if mine != self.from_chief(mine):
            raise WorkersDisagree(
                f"worker {self.index} is not where worker 0 is: start all with the same options on the same text and, "
                "on different CPUs, the same --precision"
            )

    def from_chief(self, value: float) -> float:
        """The chief's `value`, at all workers."""
        return value if self.count == 1 else float(self._sum(tf.constant(0.0 if self.index else value, tf.float64)))


def _gather(tensor: tf.Tensor) -> tf.Tensor:
    return tf.distribute.get_replica_context().all_gather(tf.identity(tensor), 0)


def _sum(tensor: tf.Tensor) -> tf.Tensor:
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(tensor))
