"""The cores that a run may use."""

import os
from pathlib import Path

import pytest

from trainer import resources
from trainer.resources import cores


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
