"""The processes that train one network together. Usually there is one; TF_CONFIG can name more.

Each worker holds all weights and reads its own rows. TensorFlow's collectives (`tf.distribute.MultiWorkerMirroredStrategy`)
average the gradients, so all workers take the same step. Worker 0, the chief, saves and publishes.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import tensorflow as tf

from trainer.cluster import ALONE, Rank
from trainer.errors import TrainerError, WorkerLost, WorkersDisagree

COLLECTIVES_FAILED = tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError


class Workers:
    """The communication with the other workers. All workers must make the same calls in the same order."""

    def __init__(self, worker: Rank = ALONE) -> None:
        """Waits until all workers of TF_CONFIG are connected. This process must not have used TensorFlow before."""
        self.worker, self.world_size, self.rank = worker, worker.world_size, worker.rank
        cluster = tf.distribute.MultiWorkerMirroredStrategy if self.world_size > 1 else tf.distribute.get_strategy
        try:
            self._strategy = cluster()
        except (tf.errors.UnavailableError, tf.errors.DeadlineExceededError) as error:
            raise WorkerLost(f"cannot connect to the other workers of TF_CONFIG ({_first_line(error)})") from error
        except tf.errors.OpError as error:
            raise TrainerError(f"this worker of TF_CONFIG cannot start ({_first_line(error)}); is its port in use?") from error
        self._gather = tf.function(lambda tensor: self.run(_gather, tensor), autograph=False)
        self._sum = tf.function(lambda tensor: self.run(_sum, tensor), autograph=False)

    @property
    def is_chief(self) -> bool:
        return self.rank == 0

    @contextmanager
    def raising_worker_lost(self) -> Iterator[None]:
        """Raises WorkerLost when TensorFlow's collectives fail. A single worker's errors are left as they are."""
        try:
            yield
        except COLLECTIVES_FAILED as error:
            if self.world_size == 1:
                raise
            raise WorkerLost(f"another worker disconnected ({_first_line(error)})") from error

    def wait_for_chief(self) -> None:
        """Waits until the chief calls this too, so that all workers exit together.

        Otherwise TensorFlow logs an error about each worker that exits before the chief. Raises WorkerLost, except on the chief:
        its work is done.
        """
        with suppress(*[WorkerLost] if self.is_chief else []), self.raising_worker_lost():
            self.from_chief(0.0)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls `function`, which may use `mean`."""
        return self._strategy.run(function, arguments)

    def mean(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The mean of each tensor over the workers. Only inside `run`."""
        if self.world_size == 1:
            return list(tensors)
        local = [tf.identity(tensor) for tensor in tensors]  # copies each tensor to this device
        return list(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, local))

    def gather_rows(self, tensor: tf.Tensor) -> tf.Tensor:
        """The workers' tensors, concatenated along the first axis."""
        return tensor if self.world_size == 1 else self._gather(tensor)

    def check_agreement(self, parts: Iterable[bytes]) -> None:
        """Raises WorkersDisagree unless worker 0 calls it with the same bytes."""
        mine = 0
        for part in parts:
            mine = zlib.crc32(part, mine)
        if mine != self.from_chief(mine):
            raise WorkersDisagree(
                f"the state of worker {self.rank} differs from that of worker 0; start all workers with the same options and the "
                "same text and, on different CPUs, the same --precision"
            )

    def from_chief(self, value: float) -> float:
        """The chief's `value`, on all workers."""
        return value if self.world_size == 1 else float(self._sum(tf.constant(0.0 if self.rank else value, tf.float64)))


def _gather(tensor: tf.Tensor) -> tf.Tensor:
    return tf.distribute.get_replica_context().all_gather(tf.identity(tensor), 0)


def _sum(tensor: tf.Tensor) -> tf.Tensor:
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(tensor))


def _first_line(error: tf.errors.OpError) -> str:
    return str(error.message.partition("\n")[0])
