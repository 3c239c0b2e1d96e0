"""The cores that the kernel's threads run on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.generation.backends import Unsupported, load_library
from service.generation.native import Library
from tests.service.generation.exact_calls import check_call, network

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not say where a thread may run")
TASKS = Path("/proc/self/task")


@pytest.fixture
def library() -> Library:
    try:
        return load_library()
    except Unsupported as error:
        pytest.skip(str(error))


@pytest.fixture
def cores() -> Iterator[set[int]]:
    """Those of this thread, which has them again after the test."""
    cores = os.sched_getaffinity(0)
    yield cores
    os.sched_setaffinity(0, cores)


def test_workers_may_run_where_they_might_before_a_call(library: Library, cores: set[int]) -> None:
    before = {path.name for path in TASKS.iterdir()}
    n = network("gru", 1, 65, 33)
    native = library.open(n, 20, 4)
    *others, last = sorted(int(path.name) for path in TASKS.iterdir() if path.name not in before)
    assert len(others) == 2
    os.sched_setaffinity(last, {min(cores)})
    for number, core in enumerate(sorted(cores)):
        os.sched_setaffinity(0, {core})
        for threads in (2, 3, 4):
            check_call(n, native, 1 + number % 3, 5, threads)
            assert [os.sched_getaffinity(worker) for worker in (*others, last)] == [cores, cores, {min(cores)}]
