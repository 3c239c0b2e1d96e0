"""When a stream's characters are delivered."""

import numpy as np

from service.generation.delivery import EACH_STREAM, Delivery
from service.generation.output_queue import Chunk, FinishReason
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from service.generation.scheduler import Output


def generation() -> Generation:
    return Generation(Prompt(np.zeros(1, np.int32)), 1000, Sampling(), 0)


def given(
    delivery: Delivery, one: Generation, character: int, now: float, reason: FinishReason | None = None, running: int = 1
) -> list[int]:
    """What is delivered when a call gives that character."""
    return [c for output in delivery.due([Output(one, Chunk([character]), reason)], now, running) for c in output.chunk.characters]


def test_the_first_characters_and_the_end_are_delivered_at_once_and_nothing_is_lost_between() -> None:
    delivery, one = Delivery(0.03), generation()
    assert given(delivery, one, 0, now=0) == [0]
    got = [given(delivery, one, c, now=c / 100) for c in range(1, 20)]
    assert [c for part in got for c in part] + given(delivery, one, 20, now=0.2, reason="length") == list(range(1, 21))
    assert {len(part) for part in got[4:] if part} <= {3, 4}, "about every 30 ms"


def test_an_end_without_characters_brings_what_was_kept() -> None:
    delivery, one = Delivery(10), generation()
    for character in range(5):
        given(delivery, one, character, now=character / 1000)
    assert given(delivery, one, 5, now=0.005) == []
    (output,) = delivery.due([Output(one, Chunk([]), "time")], 0.006, 1)
    assert (output.chunk.characters[-1], output.reason) == (5, "time")


def test_a_first_output_without_characters_does_not_hold_up_the_first_characters() -> None:
    """A stop string may begin with what was sampled, so it is held back until that is decided."""
    delivery, one = Delivery(10), generation()
    given(delivery, generation(), 0, now=0)  # the next stream's first interval is longer than 0
    assert delivery.due([Output(one, Chunk([]), None)], 0, 1) == []
    assert given(delivery, one, 0, now=0.001) == [0]
    assert given(delivery, one, 1, now=0.002) == []
    assert delivery.due([Output(one, Chunk([]), None)], 0.003, 1) == []
    assert given(delivery, one, 2, now=20) == [1, 2]


def test_zero_delivers_after_every_call() -> None:
    delivery, one = Delivery(0), generation()
    assert [given(delivery, one, c, now=0) for c in range(5)] == [[c] for c in range(5)]


def test_streams_that_begin_together_are_not_all_delivered_by_the_same_call() -> None:
    delivery, streams, interval = Delivery(0.03), [generation() for _ in range(64)], 0.03 + 64 * EACH_STREAM
    for one in streams:
        given(delivery, one, 0, now=0, running=64)
    calls = [sum(bool(given(delivery, one, 0, now=0.01 * call, running=64)) for one in streams) for call in range(1, 31)]
    assert sum(calls) >= 64 * (0.3 // interval - 1)
    assert max(calls) <= 20, "of 64 streams, at an interval of six calls"
