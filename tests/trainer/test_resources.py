"""What a run may take of its machine, and its place among workers."""

import json
import os
from pathlib import Path

import pytest

from trainer import resources
from trainer.config import TrainingConfig
from trainer.preflight import check_memory, estimate_memory
from trainer.resources import ClusterError, TooLarge, cores, read_position, share_cores


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


def test_memory_is_counted_for_what_a_large_vocabulary_takes() -> None:
    """Against peaks measured in processes of their own (MiB of VmHWM on a CPU without bfloat16): a floor, and near them."""
    large = [chr(point) for point in range(0x4E00, 0x4E00 + 20_000)]
    for options, vocabulary, peak in (
        ({"units": 64, "embedding": 32, "batch_size": 16, "seq_length": 32}, large, 786),
        ({"units": 256, "embedding": 64, "batch_size": 64, "seq_length": 64}, large, 1983),
        ({"units": 256, "embedding": 64, "batch_size": 32, "seq_length": 64}, large[:65], 743),
        ({"units": 1024}, large[:65], 1164),
        ({"units": 2048, "batch_size": 16, "seq_length": 16, "averaging": 0}, large[:65], 1377),
    ):
        estimate = estimate_memory(TrainingConfig.model_validate(options), vocabulary) / 2**20
        assert 0.7 * peak < estimate < peak, options


def test_scoring_computes_no_more_logits_at_a_time_than_fit_64_mib() -> None:
    for vocabulary in (1, 65, 2048, 20_000, 300_000, 1_112_064):
        rows = resources.count_rows(vocabulary)
        steps = resources.count_steps(rows, vocabulary)
        assert rows >= 1
        assert steps >= 1
        assert 4 * rows * steps * vocabulary <= 64 * 2**20
    assert (resources.count_rows(2048), resources.count_steps(64, 2048)) == (64, 128), "what it is for most texts"


def test_the_parts_of_a_batch_share_the_cores_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 6)
    for rows, given, expected in [(8, None, "6"), (64, None, "3"), (64, "5", "5")]:
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", given or "")
        if given is None:
            monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
        share_cores(rows)
        assert os.environ["TF_NUM_INTRAOP_THREADS"] == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 4), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("6400000 100000", 4), (None, 4)],
)
def test_a_container_s_share_of_time_limits_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.setattr(resources, "CGROUP", tmp_path)
    if limit:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert cores() == expected
