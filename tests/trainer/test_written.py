"""The text that teachers write, and what they say about it."""

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.generation import reference
from service.generation.native import Library
from service.generation.quantized import quantize
from tests.support import publish
from trainer.artifact import Architecture, Version
from trainer.batches import ContiguousBatches
from trainer.cluster import ALONE, Rank
from trainer.config import TrainingConfig
from trainer.served import find_library
from trainer.teachers import Teachers, draw
from trainer.written import WrittenBatch, WrittenBatches

VOCABULARY = list("abcdefg")
IDS = np.random.default_rng(0).integers(len(VOCABULARY), size=600).astype(np.uint8)
SHAPES = [
    Architecture(cell="gru", layers=1, units=20, embedding=4, vocabulary=VOCABULARY),
    Architecture(cell="lstm", layers=2, units=12, embedding=5, vocabulary=VOCABULARY),
    Architecture(cell="gru", layers=2, units=7, embedding=3, vocabulary=VOCABULARY),
]


@pytest.fixture
def teachers(tmp_path: Path) -> list[Version]:
    """Networks of several shapes, whose weights are large enough that their predictions differ."""
    return [publish(tmp_path, f"teacher{i}", i + 1, shape) for i, shape in enumerate(SHAPES)]


def batches(
    teachers: list[Version],
    library: Library | None = None,
    rows: int = 6,
    worker: Rank = ALONE,
    characters: int = len(IDS),
    **options: Any,
) -> WrittenBatches:
    config = TrainingConfig(teacher=[version.path for version in teachers], **options)
    text = ContiguousBatches(IDS[:characters], 4, rows, 5, worker)
    return WrittenBatches(text, config, partial(Teachers, teachers, rows, library))


def whole(written: list[WrittenBatch]) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.bool_]]:
    """(inputs [rows, characters], targets [rows, characters, vocabulary], fresh [rows, batches])."""
    inputs, targets, fresh = zip(*written, strict=True)
    return np.concatenate(inputs, 1), np.concatenate(targets, 1), np.stack(fresh, 1)


@pytest.fixture(autouse=True)
def short_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.written.PASSAGE", 20)  # five batches


def predictions(version: Version, characters: NDArray[np.int32]) -> NDArray[np.float64]:
    """A version's probabilities after each character of a text that it reads from a zero state: [characters, vocabulary]."""
    network = quantize(version.config, version.tensors)
    state, found = np.zeros((1, *network.state_shape), np.float32), []
    for character in characters:
        state, logits = reference.step(network, state, np.array([character]), np.zeros(1, np.bool_))
        weights = np.exp(logits[0].astype(np.float64))
        found.append(weights / weights.sum())
    return np.stack(found)


def passages(written: list[WrittenBatch]) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """The passages of an epoch's batches: (inputs, targets)."""
    inputs, targets, fresh = whole(written)
    found = []
    for row in range(len(inputs)):
        begins = np.flatnonzero(fresh[row]) * 4
        found += [(inputs[row, a:b], targets[row, a:b]) for a, b in pairwise([*begins, inputs.shape[1]])]
    return found


@pytest.mark.parametrize("characters", [600, 75])  # in the second the epoch ends before a whole passage does
def test_a_passage_begins_with_the_text_and_teachers_write_the_rest(teachers: list[Version], characters: int) -> None:
    text = IDS[:characters].tobytes()
    found = passages(list(batches(teachers[:1], characters=characters, text_share=0.5).epoch(1)))
    assert (20 in map(len, next(zip(*found, strict=True)))) == (characters == 600)
    for inputs, targets in found:
        half = len(inputs) // 2  # of every passage, however short
        start = inputs[: half + 1].astype(np.uint8).tobytes()
        assert start in text + text, "half of the passage is read after the first character"
        np.testing.assert_array_equal(targets[:half], np.eye(len(VOCABULARY))[inputs[1 : half + 1]])
        np.testing.assert_allclose(targets[half:], predictions(teachers[0], inputs)[half:], atol=1e-6)


@pytest.mark.slow
def test_targets_are_the_mean_of_what_the_teachers_predict(teachers: list[Version]) -> None:
    found = passages(list(batches(teachers, text_share=0, teachers_at_a_time=3).epoch(2)))
    assert len(found) > 20
    for inputs, targets in found:
        mean = np.mean([predictions(version, inputs) for version in teachers], 0)
        np.testing.assert_allclose(targets, mean, atol=1e-6)


@pytest.mark.slow
def test_each_passage_has_as_many_teachers_as_the_option_says_and_all_get_their_turn(teachers: list[Version]) -> None:
    pairs = {(0, 1), (0, 2), (1, 2)}
    used = set()
    for inputs, targets in passages(list(batches(teachers, text_share=0, teachers_at_a_time=2).epoch(1))):
        each = [predictions(version, inputs) for version in teachers]
        (pair,) = [(a, b) for a, b in pairs if np.allclose(targets, (each[a] + each[b]) / 2, atol=1e-6)]
        used.add(pair)
    assert used == pairs


@pytest.mark.slow
def test_more_teachers_at_a_time_than_there_are_is_all_of_them(teachers: list[Version]) -> None:
    three, nine = (list(batches(teachers, teachers_at_a_time=count).epoch(1)) for count in (3, 9))
    for one, other in zip(three, nine, strict=True):
        np.testing.assert_array_equal(one.targets, other.targets)


def test_what_is_written_is_drawn_from_what_is_predicted() -> None:
    """Over many uniform numbers, each character comes as often as its probability says."""
    probabilities = np.array([0.5, 0.0, 0.25, 0.125, 0.125], np.float32)
    uniforms = ((np.arange(8000) + 0.5) / 8000).astype(np.float32)
    drawn = draw(np.tile(probabilities, (8000, 1)), uniforms)
    np.testing.assert_array_equal(np.bincount(drawn, minlength=5), probabilities * 8000)
    almost_one = np.array([1 - 2**-24], np.float32)
    assert draw(np.array([[0.7, 0.2, 0.1, 0.0]], np.float32), almost_one) < 3, "a character of probability 0 is never drawn"


def test_the_text_is_the_same_with_and_without_the_kernel(teachers: list[Version]) -> None:
    library = find_library(pytest.skip)
    for native, plain in zip(batches(teachers, library).epoch(1), batches(teachers).epoch(1), strict=True):
        for one, other in zip(native, plain, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [6, 12])  # fewer and more than there are characters
def test_an_epoch_continues_from_any_batch_and_differs_from_the_next_one_and_by_seed(teachers: list[Version], rows: int) -> None:
    source = batches(teachers, rows=rows)
    first = list(source.epoch(1))
    assert len(first) == len(source) == 599 // (4 * rows)
    for start in (1, 3, 4, 5, 6, len(first) - 1, len(first)):
        continued = list(source.epoch(1, start))
        assert len(continued) == len(first) - start
        for batch, same in zip(continued, first[start:], strict=True):
            for one, other in zip(batch, same, strict=True):
                np.testing.assert_array_equal(one, other)
    assert not np.array_equal(whole(first)[0], whole(list(source.epoch(2)))[0])


@pytest.mark.slow
def test_workers_share_the_rows_that_one_would_have(teachers: list[Version]) -> None:
    alone, shared = batches(teachers), [batches(teachers, rows=2, worker=Rank(3, rank)) for rank in range(3)]
    assert {len(part) for part in shared} == {len(alone)}
    for batch, *parts in zip(alone.epoch(1), *(part.epoch(1) for part in shared), strict=True):
        for one, *others in zip(batch, *parts, strict=True):
            np.testing.assert_array_equal(np.concatenate(others), one)


def test_an_error_of_the_writing_thread_reaches_the_run(teachers: list[Version], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("not enough memory for the network")

    monkeypatch.setattr("trainer.written.Writer", fail)
    with pytest.raises(MemoryError, match="not enough memory for the network"):
        next(batches(teachers).epoch(1))
