"""Fixtures that every test may ask for."""

import gc
from functools import partial
from pathlib import Path

import pytest

from tests import support
from tests.support import ARCHITECTURE, Publish
from trainer.artifact import Architecture

gc.disable()  # until all tests are imported: imports make many objects and no garbage
collect_ignore = ["clients"]  # `make clients` runs these, in environments of their own


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture
def architecture() -> Architecture:
    return ARCHITECTURE


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """publish(name="tiny", seed=0): the next version of a model in tmp_path, random weights."""
    return partial(support.publish, tmp_path)
