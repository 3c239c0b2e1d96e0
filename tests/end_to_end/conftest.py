"""What tests of training processes share: a text, and trainers that do not outlive their test."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

StartTrainer = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("To be, or not to be, that is the question:\n" * 200)
    return path


@pytest.fixture
def start() -> Iterator[StartTrainer]:
    """start(models, *arguments, **options of Popen): `python -m trainer` for the model `play`; killed when the test is over."""
    started: list[subprocess.Popen[str]] = []

    def start(models: Path, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "trainer", "--models-dir", models, "--name", "play", *arguments]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([str(part) for part in command], stdout=pipe, stderr=pipe, text=True, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
