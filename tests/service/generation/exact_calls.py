"""Calls of the exact step on random networks, checked against the reference. Imports no TensorFlow: sanitizers choke on it."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.generation import reference
from service.generation.backend import Batch
from service.generation.quantized import QuantizedNetwork, quantize
from service.generation.sampling import Automaton, History, Sampling
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
        bias=rng.normal(0, 3, vocabulary).astype(np.float32) if rng.random() < 0.3 else None,
        presence_penalty=float(rng.choice([0, 1.3])),
        frequency_penalty=float(rng.choice([0, -0.7, 2])),
        repetition_penalty=float(rng.choice([1, 0.4, 1.2])),
        automaton=drawn_automaton(rng, vocabulary) if rng.random() < 0.4 else None,
    )


def drawn_automaton(rng: np.random.Generator, vocabulary: int) -> Automaton:
    """Of its states some allow characters that the network does not know only, and some nothing. Some are near the end."""
    states, others = int(rng.integers(1, 6)), int(rng.integers(0, 4))
    table = np.where(rng.random((states, vocabulary + others)) < 0.3, rng.integers(0, states, (states, vocabulary + others)), -1)
    table[rng.random(states) < 0.4, :vocabulary] = -1
    return Automaton(table.astype(np.int32), rng.integers(0, 6, states).astype(np.int32))


def drawn_history(rng: np.random.Generator, vocabulary: int) -> History:
    counts = rng.integers(0, 3, (2, vocabulary)).astype(np.int32) * (rng.random((2, vocabulary)) < 0.3)
    return History(counts, num_left=int(rng.integers(1, 12)))


Floats = NDArray[np.float32]


class Advances(Protocol):
    def advance(self, states: Floats, batch: Batch, threads: int) -> tuple[NDArray[np.int32], Floats, Floats | None]:
        """See `NativeNetwork`."""
        ...


def check_call(n: QuantizedNetwork, native: Advances, rows: int, steps: int, threads: int, seed: int = 0, plain: int = 0) -> None:
    """A call of the kernel gives what the reference gives: characters, states on the way and after it, logits, histories.

    plain: so many rows, the first ones, sample with a temperature only. If there are any, the call wants no logits.
    """
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (rows, *n.state_shape)).astype(np.float32)
    samplings = [drawn_sampling(rng, n.vocabulary) for _ in range(rows)]
    samplings[:plain] = [Sampling(temperature=sampling.temperature) for sampling in samplings[:plain]]
    batch = Batch(
        slots=np.arange(rows, dtype=np.int32),
        starts={},
        inputs=rng.integers(0, n.vocabulary, rows).astype(np.int32),
        forced=np.where(rng.random((steps, rows)) < 0.3, rng.integers(0, n.vocabulary, (steps, rows)), -1).astype(np.int32),
        uniforms=rng.random((steps, rows), np.float32),
        sampling=samplings,
        snapshot_at=rng.integers(-1, steps, rows).astype(np.int32),
        top_logprobs=None if plain or rng.random() < 0.3 else 0,
        histories={row: drawn_history(rng, n.vocabulary) for row, s in enumerate(samplings) if s.needs_history},
    )
    expected, after = deepcopy(batch), states.copy()
    expected_chosen, expected_snapshots, expected_logits = reference.advance(n, states, expected)
    chosen, snapshots, logits = native.advance(after, batch, threads)
    assert (chosen == expected_chosen).all()
    assert bits(after) == bits(states)
    kept = batch.snapshot_at >= 0
    assert bits(snapshots[kept]) == bits(expected_snapshots[kept])
    assert (logits is None) == (expected_logits is None)
    if logits is not None and expected_logits is not None:
        assert bits(logits) == bits(expected_logits)
    for row, history in batch.histories.items():
        assert (history.state, history.num_left) == (expected.histories[row].state, expected.histories[row].num_left)
        assert (history.counts == expected.histories[row].counts).all()


def one_step(uniforms: NDArray[np.float32], samplings: Sequence[Sampling], histories: Mapping[int, History] | None = None) -> Batch:
    """One sampled step of each row, after character 0."""
    rows = len(samplings)
    none, slots = np.full(rows, -1, np.int32), np.arange(rows, dtype=np.int32)
    return Batch(slots, {}, none * 0, none[None], uniforms, samplings, none, histories=histories or {})


def bits(values: NDArray[np.float32]) -> bytes:
    return np.ascontiguousarray(values).tobytes()


def check_boundaries(n: QuantizedNetwork, native: Advances, sampling: Sampling) -> None:
    """At the uniform numbers where the choice changes, and just below, a call chooses what the reference chooses.

    A sum in another order, or any operation that is rounded otherwise, would move some of these numbers.
    """
    rng = np.random.default_rng(0)
    state = rng.uniform(-1, 1, (1, *n.state_shape)).astype(np.float32)
    history = History(rng.integers(1, 4, (2, n.vocabulary)).astype(np.int32)) if sampling.needs_history else None
    character, awake = np.zeros(1, np.int32), np.zeros(1, np.bool_)
    logits = reference.step(n, state, character, awake)[1][0]

    def chosen_at(uniform: np.float32) -> int:
        return reference.draw(logits, uniform, sampling, history)

    uniforms = _changes(chosen_at)
    rows = len(uniforms)
    histories = {} if history is None else {row: deepcopy(history) for row in range(rows)}
    expected = [chosen_at(uniform) for uniform in uniforms]
    batch = one_step(np.array([uniforms], np.float32), [sampling] * rows, histories)
    chosen, _, _ = native.advance(np.repeat(state, rows, 0), batch, 1)
    assert len(set(expected)) > 2
    assert chosen[0].tolist() == expected


def check_top_p(n: QuantizedNetwork, native: Advances) -> None:
    """At the values of top_p that keep another last character, and just below, a call keeps what the reference keeps."""
    last = np.nextafter(np.float32(1), np.float32(0))  # chooses the last character that is kept
    rows = list[tuple[Any, Sampling, int]]()
    for seed in range(12):
        state = np.random.default_rng(seed).uniform(-1, 1, n.state_shape).astype(np.float32)
        logits = reference.step(n, state[None], np.zeros(1, np.int32), np.zeros(1, np.bool_))[1][0]

        def last_kept(top_p: np.float32, logits: Any = logits) -> int:
            return reference.draw(logits, last, Sampling(top_p=float(top_p)), None)

        rows += [(state, Sampling(top_p=float(value)), last_kept(value)) for value in _changes(last_kept)]
    states, samplings, expected = zip(*rows, strict=True)
    chosen, _, _ = native.advance(np.stack(states), one_step(np.full((1, len(rows)), last), samplings), 1)
    assert len(rows) > 24
    assert chosen[0].tolist() == list(expected)


def _changes(chosen_at: Callable[[np.float32], int]) -> list[np.float32]:
    """The floats in [0, 1) at which a choice changes, and those just below. The choice must not change back."""

    def at(bits_of_float: int) -> int:
        return chosen_at(np.uint32(bits_of_float).view(np.float32))

    found, low, end = list[int](), 0, int(np.float32(1).view(np.uint32)) - 1
    while at(low) != at(end):
        here, below, above = at(low), low, end
        while above - below > 1:
            middle = (below + above) // 2
            below, above = (middle, above) if at(middle) == here else (below, middle)
        found += [below, above]
        low = above
    return [np.uint32(bits_of_float).view(np.float32) for bits_of_float in found]


BOUNDARY_SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.7),
    Sampling(top_p=0.7),
    Sampling(top_k=20, top_p=0.97, min_p=0.02),
    Sampling(presence_penalty=0.31, frequency_penalty=0.17, repetition_penalty=1.23),
]
