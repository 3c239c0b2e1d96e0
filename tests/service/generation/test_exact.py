"""The exact step: equal bits from the reference and from the kernel, on every instruction set, by any number of threads."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.generation import quantized, reference
from service.generation.decoders import load_library
from service.generation.native import NativeNetwork
from service.generation.quantized import QuantizedNetwork, quantize
from service.generation.sampling import Sampling
from tests.support import random_tensors
from trainer.artifact import Architecture

LIBRARY = load_library()


@cache
def network(cell: Any, layers: int, units: int, vocabulary: int, embedding: int = 7) -> QuantizedNetwork:
    characters = [chr(0x4E00 + i) for i in range(vocabulary)]
    architecture = Architecture(cell=cell, layers=layers, units=units, embedding=embedding, vocabulary=characters)
    return quantize(architecture, random_tensors(architecture))


def drawn_sampling(rng: np.random.Generator, vocabulary: int) -> Sampling:
    allowed = rng.random(vocabulary) < 0.5
    allowed[rng.integers(vocabulary)] = True
    return Sampling(
        temperature=float(rng.choice([0, 0.5, 1, 1.7, 1e30])),
        top_k=int(rng.integers(1, vocabulary + 3)) if rng.random() < 0.5 else None,
        top_p=float(rng.choice([0, 0.3, 0.9, 1])),
        min_p=float(rng.choice([0, 0.1])),
        allowed=allowed if rng.random() < 0.4 else None,
    )


def check_call(n: QuantizedNetwork, native: NativeNetwork, rows: int, steps: int, threads: int, seed: int = 0) -> None:
    """A call of the kernel gives what the reference gives: characters, states on the way and after it, logits."""
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (rows, *n.state_shape)).astype(np.float32)
    inputs = rng.integers(0, n.vocabulary, rows).astype(np.int32)
    forced = np.where(rng.random((steps, rows)) < 0.3, rng.integers(0, n.vocabulary, (steps, rows)), -1).astype(np.int32)
    uniforms = rng.random((steps, rows), np.float32)
    samplings = [drawn_sampling(rng, n.vocabulary) for _ in range(rows)]
    keep, wanted = rng.integers(-1, steps, rows).astype(np.int32), rng.random(rows) < 0.5
    expected, path, expected_logits = reference.advance(n, states, inputs, forced, uniforms, samplings)
    after = states.copy()
    chosen, kept, logits = native.advance(after, inputs, forced, uniforms, samplings, keep, wanted, threads)
    assert (chosen == expected).all()
    assert bits(after) == bits(path[-1])
    for row in np.flatnonzero(keep >= 0):
        assert bits(kept[row]) == bits(path[keep[row]][row])
    for row in np.flatnonzero(wanted):
        assert logits is not None
        assert bits(logits[:, row]) == bits(expected_logits[:, row])


def bits(values: NDArray[np.float32]) -> bytes:
    return np.ascontiguousarray(values).tobytes()


@pytest.fixture(params=LIBRARY.instructions)
def instructions(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[quantized.LARGEST_TABLE, 0], ids=["table", "no table"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(quantized, "LARGEST_TABLE", request.param)
    yield


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("cell", "layers"), [("gru", 1), ("lstm", 1), ("gru", 3), ("lstm", 2)])
@pytest.mark.usefixtures("table")
def test_the_kernel_gives_the_references_bits_for_any_batch(instructions: str, threads: int, cell: str, layers: int) -> None:
    n = network(cell, layers, 65, 33)
    native = LIBRARY.open(n, 70, threads, instructions)
    for rows in range(1, 71, 1 if layers == 1 else 9):
        check_call(n, native, rows, 2, threads, seed=rows)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 99, 100])
def test_the_kernel_gives_the_references_bits_for_any_length_of_a_call(instructions: str, steps: int) -> None:
    n = network("gru", 2, 24, 60)
    check_call(n, LIBRARY.open(n, 5, 2, instructions), 5, steps, 2)


@pytest.mark.parametrize("vocabulary", [1, 15, 16, 17, 1023, 1024, 1100])
@pytest.mark.usefixtures("table")
def test_any_vocabulary(instructions: str, vocabulary: int) -> None:
    n = network("gru", 1, 16, vocabulary)
    for threads in (1, 2):
        native = LIBRARY.open(n, 20, threads, instructions)
        for rows in (1, 2, 20):
            check_call(n, native, rows, 3, threads)


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cell=st.sampled_from(["gru", "lstm"]), layers=st.integers(1, 3), units=st.integers(1, 130), vocabulary=st.integers(1, 200),
    embedding=st.integers(1, 70), rows=st.integers(1, 40), steps=st.integers(1, 6), threads=st.integers(1, 4), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_shape(
    cell: str, layers: int, units: int, vocabulary: int, embedding: int, rows: int, steps: int, threads: int, seed: int
) -> None:
    n = network(cell, layers, units, vocabulary, embedding)
    for instructions in LIBRARY.instructions:
        check_call(n, LIBRARY.open(n, rows, threads, instructions), rows, steps, threads, seed)


def test_an_instruction_set_that_the_machine_lacks_is_told() -> None:
    with pytest.raises(ValueError, match="this machine has no mmx; it has .*portable"):
        LIBRARY.open(network("gru", 1, 16, 10), 1, 1, "mmx")


def test_exp_is_within_two_units_in_the_last_place() -> None:
    x = np.linspace(-87, 88, 1_000_001, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    ulp = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert (np.abs(reference.exp(x) - exact) / ulp).max() < 2
    assert reference.exp(np.zeros(1, np.float32))[0] == 1


def test_a_draw_never_takes_a_weight_of_zero() -> None:
    rng = np.random.default_rng(0)
    largest = np.nextafter(np.float32(1), np.float32(0))
    for _ in range(2000):
        weights = np.where(rng.random(70) < 0.2, rng.random(70), 0).astype(np.float32)
        weights[rng.integers(70)] = 1
        for uniform in (np.float32(0), np.float32(rng.random()), largest):
            assert weights[reference.invert(weights, uniform)] > 0
