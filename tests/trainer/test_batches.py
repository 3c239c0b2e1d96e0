"""How ids are cut into batches."""

from typing import Any

import numpy as np
import pytest

from trainer.batches import Batches, ContiguousBatches, ShuffledBatches, split
from trainer.cluster import Rank

IDS = np.arange(90, dtype=np.uint8)


def test_the_texts_end_is_held_out() -> None:
    trained_on, held_out = split(IDS, 0.1)
    np.testing.assert_array_equal(np.concatenate([trained_on, held_out]), IDS)
    assert len(held_out) == 9
    assert [len(part) for part in split(IDS, 0.0)] == [90, 0]


def test_targets_are_inputs_moved_by_one_and_no_window_comes_twice() -> None:
    seen = []
    for inputs, targets in ShuffledBatches(IDS, seq_length=4, batch_size=3, seed=0).epoch(1):
        np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
        seen += inputs[:, 0].tolist()
    assert sorted(seen) == list(range(0, 90, 5))


def test_contiguous_batches_continue_each_other_and_cover_the_text_once() -> None:
    for epoch in (1, 2, 3):
        batches = list(ContiguousBatches(IDS, seq_length=4, batch_size=3, seed=0).epoch(epoch))
        assert len(batches) == 89 // 12
        rows = np.concatenate([inputs for inputs, _ in batches], 1)
        np.testing.assert_array_equal(np.concatenate([targets for _, targets in batches], 1), (rows + 1) % 90)
        assert ((rows[:, 1:] - rows[:, :-1]) % 90 == 1).all()
        assert len(set(rows.flatten().tolist())) == rows.size


@pytest.mark.parametrize("order", [ContiguousBatches, ShuffledBatches])
def test_each_epoch_differs_and_a_seed_repeats_it_from_any_batch(order: type[Batches]) -> None:

    def epoch(seed: int, number: int, start: int = 0) -> list[Any]:
        batches = order(IDS, seq_length=4, batch_size=3, seed=seed).epoch(number, start)
        return [inputs.tolist() for inputs, _ in batches]

    first, second = epoch(1, 1), epoch(1, 2)
    assert first != second
    assert epoch(2, 1) != first
    for start in range(len(first) + 1):
        assert epoch(1, 1, start) == first[start:]


@pytest.mark.parametrize("order", [ContiguousBatches, ShuffledBatches])
def test_workers_share_the_rows_that_one_would_have(order: type[Batches]) -> None:
    alone = order(IDS, seq_length=4, batch_size=6, seed=5)
    shared = [order(IDS, seq_length=4, batch_size=2, seed=5, worker=Rank(3, rank)) for rank in range(3)]
    assert {len(part) for part in shared} == {len(alone)}
    for (whole, _), *parts in zip(alone.epoch(1), *(part.epoch(1) for part in shared), strict=True):
        np.testing.assert_array_equal(np.concatenate([inputs for inputs, _ in parts]), whole)
