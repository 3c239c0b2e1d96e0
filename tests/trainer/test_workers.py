"""The workers seen from one process; two real ones are in tests/end_to_end/test_workers.py."""

import pytest
import tensorflow as tf

from trainer.errors import WorkerLost, WorkersDisagree
from trainer.workers import Workers


def fail_in_tensorflow() -> None:
    raise tf.errors.InternalError(None, None, "Connection reset by peer\nAdditional GRPC error information: ...")


def test_a_single_worker_gets_tensorflows_own_error() -> None:
    with pytest.raises(tf.errors.InternalError, match="Connection reset"), Workers().raising_worker_lost():
        fail_in_tensorflow()


def test_one_of_several_workers_gets_worker_lost_with_tensorflows_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers()
    monkeypatch.setattr(workers, "world_size", 2)
    with (
        pytest.raises(WorkerLost, match=r"^another worker disconnected \(Connection reset by peer\)$"),
        workers.raising_worker_lost(),
    ):
        fail_in_tensorflow()


def test_workers_that_disagree_get_the_possible_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers()
    workers.check_agreement([b"weights"])
    monkeypatch.setattr(workers, "from_chief", lambda value: value + 1)
    with pytest.raises(WorkersDisagree, match="the same options and the same text and, on different CPUs, the same --precision"):
        workers.check_agreement([b"weights"])
