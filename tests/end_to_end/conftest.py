"""Marks all of this folder as slow. What tests of training processes share: a text, and trainers that do not outlive their test."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.end_to_end.replicas")  # asserts for tests

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.slow)


StartTrainer = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("To be, or not to be, that is the question:\n" * 200)
    return path


@contextmanager
def trainers() -> Iterator[StartTrainer]:
    """start(models, *arguments, **options of Popen): `python -m trainer` for the model `play`; killed in the end."""
    started: list[subprocess.Popen[str]] = []

    def start(models: Path, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "trainer", "--models-dir", models, "--name", "play", *arguments]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([str(part) for part in command], stdout=pipe, stderr=pipe, text=True, **options))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()


@pytest.fixture
def start() -> Iterator[StartTrainer]:
    with trainers() as start:
        yield start
