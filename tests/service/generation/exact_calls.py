"""Calls of the exact step on random networks, checked against the reference. Imports no TensorFlow: sanitizers choke on it."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.generation import reference
from service.generation.native import NativeNetwork
from service.generation.quantized import QuantizedNetwork, quantize
from service.generation.sampling import Sampling
from tests.support import random_tensors
from trainer.artifact import Architecture


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
