from collections.abc import Callable
from math import log

import numpy as np
import pytest
import tensorflow as tf

from tests.support import load_weights, random_tensors
from trainer import network, scoring
from trainer.artifact import Architecture
from trainer.evaluation import Evaluator

pytestmark = pytest.mark.slow

SHAPE = Architecture(cell="gru", layers=2, units=24, embedding=8, vocabulary=list("abcde"))
WEIGHTS = random_tensors(SHAPE)


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Evaluator(SHAPE)


Nats = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def nats() -> Nats:
    """nats(ids): by plain Keras, from a zero state, of each character after the first."""
    model = network.build(SHAPE, batch_size=1)
    load_weights(model, WEIGHTS)
    run = tf.function(model, input_signature=[tf.TensorSpec((1, None), tf.int32)], autograph=False)

    def nats(ids: np.ndarray) -> np.ndarray:
        for layer in model.layers[1:-1]:
            layer.reset_state()
        logits = run(ids[None, :-1].astype(np.int32)).numpy()[0].astype(np.float64)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        found: np.ndarray = -logits[np.arange(len(ids) - 1), ids[1:]]
        return found

    return nats


def text(characters: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 5, characters).astype(np.uint8)


def test_full_pass_is_the_mean_over_the_whole_text_read_at_a_stretch(evaluator: Evaluator, nats: Nats) -> None:
    ids = text(700)
    assert evaluator.scores(WEIGHTS, ids).full_pass == pytest.approx(nats(ids).mean(), abs=1e-5)


def test_cold_256_is_the_mean_over_windows_each_from_a_zero_state(evaluator: Evaluator, nats: Nats) -> None:
    ids = text(256 * 3 + 1 + 100)
    windows = [nats(ids[first : first + 257]).mean() for first in (0, 256, 512)]
    assert evaluator.scores(WEIGHTS, ids).cold_256 == pytest.approx(np.mean(windows), abs=1e-5)


@pytest.mark.parametrize("characters", [2, 3, 200, 256, 257])
def test_a_text_too_short_for_a_window_is_one(evaluator: Evaluator, nats: Nats, characters: int) -> None:
    ids = text(characters)
    scores = evaluator.scores(WEIGHTS, ids)
    assert scores.full_pass == pytest.approx(nats(ids).mean(), abs=1e-5)
    assert scores.cold_256 == pytest.approx(scores.full_pass, abs=1e-5)


@pytest.mark.parametrize(("characters", "rows"), [(2, 64), (65, 64), (5_000, 64), (5_000, 4)])  # the last's read on after warm-up
def test_side_by_side_it_is_the_same_but_for_what_a_state_keeps_longer(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, characters: int, rows: int
) -> None:
    monkeypatch.setattr(scoring, "MAX_ROWS", rows)
    ids = text(characters)
    forgets = {name: 0.5 * tensor for name, tensor in WEIGHTS.items()}  # as a trained network does; these random ones never do
    side_by_side = evaluator.scores(forgets, ids, exact=False)
    exact = evaluator.scores(forgets, ids)
    assert side_by_side.cold_256 == exact.cold_256
    assert side_by_side.full_pass == pytest.approx(exact.full_pass, abs=1e-4)


def test_scores_do_not_depend_on_how_much_is_scored_at_a_time(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = text(520)
    whole = [evaluator.scores(WEIGHTS, ids, exact=exact) for exact in (True, False)]
    for logits in (64 * 5 * 13, 28 * 5):  # fewer steps, and fewer rows of one step
        monkeypatch.setattr(scoring, "MAX_LOGITS", logits)
        for exact, found in zip((True, False), whole, strict=True):
            scores = evaluator.scores(WEIGHTS, ids, exact=exact)
            assert scores.full_pass == pytest.approx(found.full_pass, abs=1e-6)
            assert scores.cold_256 == pytest.approx(found.cold_256, abs=1e-6)


def test_a_network_that_knows_nothing_scores_the_logarithm_of_the_vocabularys_size(evaluator: Evaluator) -> None:
    nothing = {name: np.zeros_like(tensor) for name, tensor in WEIGHTS.items()}
    scores = evaluator.scores(nothing, text(1000))
    assert scores.full_pass == pytest.approx(log(5), abs=1e-6)
    assert scores.cold_256 == pytest.approx(log(5), abs=1e-6)


def test_scoring_computes_no_more_logits_at_a_time_than_fit_64_mib() -> None:
    for vocabulary in (1, 65, 2048, 20_000, 300_000, 1_112_064):
        rows = scoring.count_rows(vocabulary)
        steps = scoring.count_steps(rows, vocabulary)
        assert rows >= 1
        assert steps >= 1
        assert 4 * rows * steps * vocabulary <= 64 * 2**20
    assert (scoring.count_rows(2048), scoring.count_steps(64, 2048)) == (64, 128), "what it is for most texts"
