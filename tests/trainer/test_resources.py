"""The cores and the memory that a run may use."""

import os
from pathlib import Path

import pytest

from trainer import resources
from trainer.resources import cores, read_memory


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


def test_a_container_s_limit_is_the_memory_unless_the_machine_has_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "CGROUP", tmp_path)
    physical = read_memory()
    assert physical > 2**20
    for limit, expected in (("max", physical), ("1048576", 2**20), (str(2 * physical), physical)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert read_memory() == expected
