"""The cores that a run may use."""

import os
from pathlib import Path

import pytest

from trainer import resources, scan_library
from trainer.resources import configure_tensorflow, cores


def test_the_shards_of_a_batch_share_the_cores_unless_a_variable_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 6)
    monkeypatch.setattr(scan_library, "find_library", object)
    cases = [(8, "bf16", None, "6"), (64, "bf16", None, "3"), (64, "f32", None, "6"), (64, "bf16", "5", "5")]
    for rows, precision, given, expected in cases:
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", given or "")
        if given is None:
            monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
        configure_tensorflow(rows, precision)
        assert os.environ["TF_NUM_INTRAOP_THREADS"] == expected


def test_a_batch_has_shards_where_the_recurrence_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 6)
    monkeypatch.setattr(scan_library, "find_library", lambda: None)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    configure_tensorflow(64, "f32")
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "3"


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
