"""Fixtures that every test may ask for."""

from functools import partial
from pathlib import Path

import pytest

from tests import support
from tests.support import ARCHITECTURE, Publish
from trainer.artifact import Architecture

collect_ignore = ["clients"]  # `make clients` runs these, in environments of their own


@pytest.fixture
def architecture() -> Architecture:
    return ARCHITECTURE


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """publish(name="tiny", seed=0): the next version of a model in tmp_path, random weights."""
    return partial(support.publish, tmp_path)
