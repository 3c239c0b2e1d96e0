"""Fixtures that every test may ask for."""

import gc
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from service.generation.constraints import compiler
from tests import support
from tests.support import ARCHITECTURE, Publish
from trainer.artifact import Architecture

gc.disable()  # until all tests are imported: imports make many objects and no garbage
for variable in [*os.environ]:  # of the developer's own servers and runs
    if variable.startswith(("SERVICE_", "TRAINER_", "OTEL_")) or variable in ("FOLIO_API_KEY", "TF_CONFIG"):
        del os.environ[variable]
collect_ignore = ["clients"]  # `make clients` runs these, in environments of their own


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def without_a_gpu() -> Iterator[None]:
    """Servers in this process run on the CPU. The tests of a GPU open one themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.generation.backends.has_device", lambda: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def with_time_to_compile() -> Iterator[None]:
    """Constraints may take long to compile, because the machine may be busy. Tests of the limit set one themselves."""
    here = "import service.generation.constraints.worker as worker; worker.SECONDS = 600; worker.main("
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "SECONDS", 300.0)
        patch.setattr(compiler, "WORKER", compiler.WORKER.partition("from ")[0] + here + compiler.WORKER.partition(" main(")[2])
        yield


@pytest.fixture
def architecture() -> Architecture:
    return ARCHITECTURE


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """publish(name="tiny", seed=0): the next version of a model in tmp_path, random weights."""
    return partial(support.publish, tmp_path)
