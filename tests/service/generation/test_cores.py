"""The cores that the kernel's threads run on."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.generation.backends import Unsupported, load_library
from service.generation.native import Library, NativeNetwork
from service.generation.quantized import QuantizedNetwork
from tests.service.generation.exact_calls import check_call, network
from tests.support import wait_until

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


def open_with_workers(library: Library, threads: int) -> tuple[QuantizedNetwork, NativeNetwork, list[int]]:
    """(A network, the same opened, its workers)."""
    n = network("gru", 1, 65, 33)
    check_call(n, library.open(n, 1, 1), 1, 1, 1)  # other libraries have their threads now
    before = {path.name for path in TASKS.iterdir()}
    native = library.open(n, 20, threads)
    return n, native, sorted(int(path.name) for path in TASKS.iterdir() if path.name not in before)


def test_threads_may_run_where_they_might_before_a_call(library: Library, cores: set[int]) -> None:
    n, native, (*others, last) = open_with_workers(library, 4)
    os.sched_setaffinity(last, {min(cores)})
    for number, core in enumerate(sorted(cores)):
        os.sched_setaffinity(0, {core})
        for threads in (2, 3, 4, 2):
            check_call(n, native, 1 + number % 3, 5, threads)
            assert os.sched_getaffinity(0) == {core}
            assert [os.sched_getaffinity(worker) for worker in (*others, last)] == [cores, cores, {min(cores)}]


def test_a_worker_is_kept_off_the_callers_core_during_a_call(library: Library, cores: set[int]) -> None:
    if len(cores) == 1:
        pytest.skip("one core")
    n, native, (worker,) = open_with_workers(library, 2)
    enough = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        caller = pool.submit(threading.get_native_id).result(60)

        def call() -> None:
            while not enough.is_set():
                check_call(n, native, 1, 2000, 2)

        calls = pool.submit(call)
        try:
            wait_until(lambda: apart(caller, worker, cores))
        finally:
            enough.set()
        calls.result(60)
    assert os.sched_getaffinity(worker) == cores


def apart(caller: int, worker: int, cores: set[int]) -> bool:
    """Whether both may run on some of the cores only, and on none together."""
    places = os.sched_getaffinity(caller), os.sched_getaffinity(worker), os.sched_getaffinity(caller)
    return places[0] == places[2] and len(places[0]) == 1 and not places[0] & places[1] and places[1] < cores
