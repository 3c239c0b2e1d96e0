"""Fixtures that every test may ask for."""

import gc
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from service.generation.constraints import compiler
from tests import support
from tests.patient_service import LIMITS
from tests.support import ARCHITECTURE, Publish
from trainer.artifact import Architecture

gc.disable()  # until all tests are imported: imports make many objects and no garbage
for variable in [*os.environ]:  # of the developer's own servers and runs
    if variable.startswith(("SERVICE_", "TRAINER_", "OTEL_")) or variable in ("FOLIO_API_KEY", "TF_CONFIG"):
        del os.environ[variable]
for variable in ("NO_PROXY", "no_proxy"):  # no proxy is asked for servers of this machine
    os.environ[variable] = ",".join(filter(None, [os.environ.get(variable), "127.0.0.1,localhost,::1"]))
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
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LIMITS.items():
            patch.setattr(compiler, name, value)
        yield


@pytest.fixture
def architecture() -> Architecture:
    return ARCHITECTURE


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """publish(name="tiny", seed=0): the next version of a model in tmp_path, random weights."""
    return partial(support.publish, tmp_path)
