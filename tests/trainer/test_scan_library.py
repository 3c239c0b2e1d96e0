"""The compiled scan: NumPy's results for any size, on every instruction set, and the same bits by any number of threads."""

import logging
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from service.generation.kernel.build import NoCompiler
from tests.trainer.scan_calls import SIZES, check, layer, run
from trainer import scan_library
from trainer.scan_library import ALIGNMENT, RunOptions, empty, find_library

LIBRARY = find_library()
if LIBRARY is None:
    pytest.skip("no kernel here", allow_module_level=True)


@pytest.fixture(params=LIBRARY.instructions)
def instructions(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("vocabulary", [0, 7])
def test_the_scans_give_what_numpy_gives(instructions: str, cell: str, size: tuple[int, int, int], vocabulary: int) -> None:
    assert LIBRARY is not None
    check(LIBRARY, layer(cell, *size, vocabulary), RunOptions(2, instructions))


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_so_do_those_of_a_large_layer(cell: str) -> None:
    assert LIBRARY is not None
    check(LIBRARY, layer(cell, 1024, 64, 3, 65), RunOptions(2))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("vocabulary", [0, 7])
def test_any_number_of_threads_gives_the_same_bits(instructions: str, cell: str, vocabulary: int) -> None:
    assert LIBRARY is not None
    given = layer(cell, 50, 70, 6, vocabulary)
    one = run(LIBRARY, given, RunOptions(1, instructions))
    for threads in (1, 2, 3, 100):
        other = run(LIBRARY, given, RunOptions(threads, instructions))
        for name, value in one.items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_large_sums_saturate(instructions: str) -> None:
    """Their exponentials would be infinite, or too small for normal numbers."""
    assert LIBRARY is not None
    for cell in ("gru", "lstm"):
        given = layer(cell, 20, 4, 3)
        given["inputs"] = np.where(given["inputs"] > 0, np.float32(1e4), np.float32(-1e4))
        check(LIBRARY, given, RunOptions(1, instructions))


@pytest.mark.parametrize("name", ["kernel", "inputs", "state"])
def test_what_is_not_a_number_shows_in_the_results(instructions: str, name: str) -> None:
    """A run that diverges must not go on as if it had not."""
    assert LIBRARY is not None
    for cell in ("gru", "lstm"):
        given = layer(cell, 20, 4, 3)
        given[name][:, 2] = np.nan
        found = run(LIBRARY, given, RunOptions(1, instructions))
        assert np.isnan(found["outputs"]).any()
        assert np.isnan(found["d_kernel"]).any()


def test_an_instruction_set_that_the_machine_lacks_is_an_error() -> None:
    assert LIBRARY is not None
    with pytest.raises(ValueError, match="this machine has no none"):
        run(LIBRARY, layer("gru", 5, 1, 1), RunOptions(1, "none"))


def test_without_a_compiler_the_reason_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Path:
        raise NoCompiler("there is no C compiler")

    monkeypatch.setattr(scan_library, "find_or_build", fail)
    monkeypatch.setattr(scan_library, "find_library", cache(find_library.__wrapped__))
    with caplog.at_level(logging.WARNING):
        assert scan_library.find_library() is None
        assert scan_library.find_library() is None
    (record,) = caplog.records
    assert "TensorFlow computes it" in record.message
    assert "there is no C compiler" in record.message


def test_memory_is_used_again_only_when_no_array_of_it_is_left() -> None:
    first = empty(1000, 3)
    part, address = first[5:, 1], first.ctypes.data
    del first
    assert empty(1000, 3).ctypes.data != address, "a part of it is still used"
    del part
    assert {(one := empty(1000, 3)).ctypes.data, (two := empty(1000, 3)).ctypes.data} >= {address}
    assert one.ctypes.data != two.ctypes.data
    assert one.ctypes.data % ALIGNMENT == 0
