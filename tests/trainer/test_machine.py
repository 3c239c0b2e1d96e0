"""What a run may take of its machine, and its place among workers."""

import json
import os

import pytest

from trainer.config import TrainingConfig
from trainer.machine import ClusterError, TooLarge, check_memory, read_position, share_cores


def test_a_process_that_nobody_told_of_a_cluster_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert read_position() == (1, 0)


def test_a_worker_has_its_place_in_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {"cluster": {"worker": ["a:1", "b:1", "c:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    assert read_position() == (3, 1)
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster | {"task": {"type": "worker", "index": 3}}))
    with pytest.raises(ClusterError, match="the workers are 0 to 2"):
        read_position()


def test_a_run_that_fits_no_memory_is_refused_with_what_to_take_less_of() -> None:
    check_memory(TrainingConfig(units=8), list("ab"))
    with pytest.raises(TooLarge, match=r"3 x 1,000,000 units .* take fewer --units or --layers, or a smaller --batch-size"):
        check_memory(TrainingConfig(units=1_000_000, layers=3), list("ab"))


def test_the_parts_of_a_batch_share_the_cores_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "")
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    share_cores(rows=8)  # runs whole
    assert "TF_NUM_INTRAOP_THREADS" not in os.environ
    share_cores(rows=64)
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "3"
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    share_cores(rows=64)
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "5"
