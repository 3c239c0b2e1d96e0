"""Scores as served: of the exact int8 step, by the same protocol as the scores as trained."""

from itertools import pairwise
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.generation import reference
from service.generation.backends import Unsupported, load_library
from service.generation.native import Library
from service.generation.quantized import quantize
from tests.support import random_tensors
from trainer import scoring, served
from trainer.artifact import Architecture, PublishedScores, Scores, Tensors
from trainer.served import compare, find_library, served_scores

try:
    LIBRARY: Library | None = load_library()
except Unsupported:
    LIBRARY = None

LIBRARIES = pytest.mark.parametrize(
    "library",
    [None, pytest.param(LIBRARY, marks=pytest.mark.skipif(LIBRARY is None, reason="no C compiler"))],
    ids=["reference", "native"],
)
SHAPES = [Architecture(cell=cell, layers=2, units=24, embedding=8, vocabulary=list("abcde")) for cell in ("gru", "lstm")]
SHAPE, IDS = SHAPES[0], np.random.default_rng(1).integers(0, 5, 600).astype(np.uint8)


def nats(shape: Architecture, tensors: Tensors, ids: NDArray[Any]) -> NDArray[np.float64]:
    """Straight from the reference's logits, from a zero state, of each character after the first."""
    network = quantize(shape, tensors)
    states, found, unpaused = np.zeros((1, *network.state_shape), np.float32), [], np.array([False])
    for read, following in pairwise(ids):
        states, logits = reference.step(network, states, np.array([read], np.int32), unpaused)
        values = logits[0].astype(np.float64)
        found.append(np.log(np.exp(values).sum()) - values[following])
    return np.array(found)


@pytest.mark.slow
@LIBRARIES
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.cell)
def test_both_scores_are_means_of_what_the_reference_says(library: Library | None, shape: Architecture) -> None:
    tensors = random_tensors(shape)
    scores = served_scores(shape, tensors, IDS, library)
    assert scores.full_pass == pytest.approx(nats(shape, tensors, IDS).mean(), abs=1e-5)
    windows = [nats(shape, tensors, IDS[first : first + 257]).mean() for first in (0, 256)]
    assert scores.cold_256 == pytest.approx(np.mean(windows), abs=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(LIBRARY is None, reason="no C compiler")
def test_without_a_library_the_scores_are_the_same() -> None:
    ids = np.random.default_rng(2).integers(0, 5, 3000).astype(np.uint8)
    forgets = {name: 0.5 * tensor for name, tensor in random_tensors(SHAPE).items()}  # as a trained network does
    native, by_numpy = (served_scores(SHAPE, forgets, ids, library) for library in (LIBRARY, None))
    assert by_numpy.full_pass == pytest.approx(native.full_pass, abs=1e-6)
    assert by_numpy.cold_256 == pytest.approx(native.cold_256, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.cell)
def test_they_are_close_to_those_as_trained(shape: Architecture) -> None:
    from trainer.evaluation import Evaluator

    tensors = {name: 0.5 * tensor for name, tensor in random_tensors(shape).items()}
    trained, found = Evaluator(shape).scores(tensors, IDS), served_scores(shape, tensors, IDS, LIBRARY)
    assert found.full_pass == pytest.approx(trained.full_pass, abs=0.002)
    assert found.cold_256 == pytest.approx(trained.cold_256, abs=0.002)
    assert found != trained  # the rounding shows somewhere


@pytest.mark.slow
@LIBRARIES
@pytest.mark.parametrize("logits", [64 * 5 * 13, 7 * 5])
def test_scores_do_not_depend_on_how_much_is_scored_at_a_time(
    monkeypatch: pytest.MonkeyPatch, library: Library | None, logits: int
) -> None:
    tensors = random_tensors(SHAPE)
    whole = served_scores(SHAPE, tensors, IDS, library)
    monkeypatch.setattr(scoring, "MAX_LOGITS", logits)  # fewer steps, and fewer rows of one step
    in_parts = served_scores(SHAPE, tensors, IDS, library)
    assert in_parts.full_pass == pytest.approx(whole.full_pass, abs=1e-9)
    assert in_parts.cold_256 == pytest.approx(whole.cold_256, abs=1e-9)


@LIBRARIES
def test_scoring_ends_when_stop_is_set(library: Library | None) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        served_scores(SHAPE, random_tensors(SHAPE), IDS, library, stop)


def test_why_a_library_cannot_be_built_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Library:
        raise Unsupported("there is no C compiler")

    monkeypatch.setattr(served, "load_library", absent)
    said: list[str] = []
    assert find_library(said.append) is None
    (line,) = said
    assert line.startswith("there is no C compiler")
    assert "slower" in line


@pytest.mark.parametrize(
    ("full_pass", "cold_256", "warned"),
    [
        (1.5, 1.6, False),
        (1.5019, 1.5981, False),
        (1.5021, 1.6, True),
        (1.5, 1.6021, True),
        (1.4979, 1.6, True),
        (np.nan, 1.6, True),
    ],
)
def test_scores_further_apart_than_usual_are_warned_of(full_pass: float, cold_256: float, warned: bool) -> None:
    as_served = Scores(full_pass=full_pass, cold_256=cold_256)
    warning = compare(PublishedScores(full_pass=1.5, cold_256=1.6, as_served=as_served))
    assert (warning is not None) == warned
    if warning is not None:
        for figure in ("1.5000", "1.6000", f"{full_pass:.4f}", f"{cold_256:.4f}"):
            assert figure in warning


def test_there_is_nothing_to_warn_of_where_nothing_was_measured() -> None:
    assert compare(PublishedScores()) is None
    assert compare(PublishedScores(as_served=Scores())) is None
    assert compare(PublishedScores(full_pass=1.5, cold_256=1.6)) is None
