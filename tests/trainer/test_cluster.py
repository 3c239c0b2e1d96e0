"""The rank that TF_CONFIG gives a worker."""

import json

import pytest

from trainer.cluster import read_rank
from trainer.errors import TrainerError


def test_without_tf_config_a_process_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert read_rank() == (1, 0)


def test_tf_config_gives_a_worker_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {"cluster": {"worker": ["a:1", "b:1", "c:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    assert read_rank() == (3, 1)
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster | {"task": {"type": "worker", "index": 3}}))
    with pytest.raises(TrainerError, match="the workers are 0 to 2"):
        read_rank()
