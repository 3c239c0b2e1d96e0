from math import log

import numpy as np
import pytest

from tests.support import random_tensors
from trainer import machine, network
from trainer.artifact import Architecture
from trainer.evaluation import Evaluator

pytestmark = pytest.mark.slow

SHAPE = Architecture(cell="gru", layers=2, units=24, embedding=8, vocabulary=list("abcde"))
WEIGHTS = random_tensors(SHAPE)


def text(characters: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 5, characters).astype(np.uint8)


def nats(ids: np.ndarray) -> np.ndarray:
    """By plain Keras, from a zero state, of each character after the first."""
    model = network.build(SHAPE, batch_size=1)
    network.load(model, WEIGHTS)
    logits = model(ids[None, :-1].astype(np.int32)).numpy()[0].astype(np.float64)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    found: np.ndarray = -logits[np.arange(len(ids) - 1), ids[1:]]
    return found


def test_full_pass_is_the_mean_over_the_whole_text_read_at_a_stretch() -> None:
    ids = text(700)
    assert Evaluator(SHAPE).scores(WEIGHTS, ids).full_pass == pytest.approx(nats(ids).mean(), abs=1e-5)


def test_cold_256_is_the_mean_over_windows_each_from_a_zero_state() -> None:
    ids = text(256 * 3 + 1 + 100)
    windows = [nats(ids[first : first + 257]).mean() for first in (0, 256, 512)]
    assert Evaluator(SHAPE).scores(WEIGHTS, ids).cold_256 == pytest.approx(np.mean(windows), abs=1e-5)


@pytest.mark.parametrize("characters", [2, 3, 200, 256, 257])
def test_a_text_too_short_for_a_window_is_one(characters: int) -> None:
    ids = text(characters)
    scores = Evaluator(SHAPE).scores(WEIGHTS, ids)
    assert scores.full_pass == pytest.approx(nats(ids).mean(), abs=1e-5)
    assert scores.cold_256 == pytest.approx(scores.full_pass, abs=1e-5)


@pytest.mark.parametrize("characters", [2, 65, 5_000, 100_000])
def test_side_by_side_it_is_the_same_but_for_what_a_state_keeps_longer(characters: int) -> None:
    evaluator, ids = Evaluator(SHAPE), text(characters)
    forgets = {name: 0.5 * tensor for name, tensor in WEIGHTS.items()}  # as a trained network does; these random ones never do
    side_by_side = evaluator.scores(forgets, ids, exact=False)
    exact = evaluator.scores(forgets, ids)
    assert side_by_side.cold_256 == exact.cold_256
    assert side_by_side.full_pass == pytest.approx(exact.full_pass, abs=1e-4)


def test_scores_do_not_depend_on_how_much_is_scored_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = text(800)
    whole = [Evaluator(SHAPE).scores(WEIGHTS, ids, exact=exact) for exact in (True, False)]
    for logits in (64 * 5 * 13, 7 * 5):  # fewer steps, and fewer rows of one step
        monkeypatch.setattr(machine, "SCORED_LOGITS", logits)
        for exact, found in zip((True, False), whole, strict=True):
            scores = Evaluator(SHAPE).scores(WEIGHTS, ids, exact=exact)
            assert scores.full_pass == pytest.approx(found.full_pass, abs=1e-6)
            assert scores.cold_256 == pytest.approx(found.cold_256, abs=1e-6)


def test_a_network_that_knows_nothing_scores_the_logarithm_of_the_vocabularys_size() -> None:
    nothing = {name: np.zeros_like(tensor) for name, tensor in WEIGHTS.items()}
    scores = Evaluator(SHAPE).scores(nothing, text(1000))
    assert scores.full_pass == pytest.approx(log(5), abs=1e-6)
    assert scores.cold_256 == pytest.approx(log(5), abs=1e-6)
