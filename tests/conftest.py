"""Fixtures that every test may ask for."""

from pathlib import Path

import pytest

from tests.support import VOCABULARY, Publish, config, random_tensors
from trainer import artifact
from trainer.artifact import Architecture, Version

SLOW = {"test_command", "test_decoders", "test_evaluation", "test_loop", "test_main", "test_step", "test_traffic"}  # 10 s or more


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "end_to_end" in item.path.parts or item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def architecture() -> Architecture:
    return Architecture(cell="gru", layers=1, units=24, embedding=8, vocabulary=VOCABULARY)


@pytest.fixture
def publish(tmp_path: Path, architecture: Architecture) -> Publish:
    """publish(name="tiny", seed=0): the next version of a model in tmp_path, random weights."""

    def publish(name: str = "tiny", seed: int = 0) -> Version:
        return artifact.publish(tmp_path, config(architecture, name), random_tensors(architecture, seed), {})

    return publish
