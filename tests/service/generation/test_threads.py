"""How many threads a call takes: the fewer wherever more have been measured to be slower."""

from service.generation.threads import TRIAL_INTERVAL, ThreadCount, size_of


def chosen(count: ThreadCount, seconds: dict[int, float], calls: int, steps: int = 100, rows: int = 4) -> list[int]:
    """The threads of calls that take so long a step with so many threads."""
    taken = []
    for _ in range(calls):
        threads = count.choose(size_of(steps, rows))
        count.record(size_of(steps, rows), threads, steps, steps * seconds[threads])
        taken.append(threads)
    return taken


LONG = size_of(100, 4)


def test_both_ways_are_tried_and_the_faster_one_is_taken() -> None:
    for seconds, best in (({1: 1.0, 2: 0.6}, 2), ({1: 1.0, 2: 30.0}, 1)):
        taken = chosen(ThreadCount(2), seconds, TRIAL_INTERVAL)
        assert set(taken) == {1, 2}
        assert taken.count(best) >= TRIAL_INTERVAL - 4


def test_the_slower_way_is_tried_again_and_taken_once_it_is_faster() -> None:
    count = ThreadCount(2)
    chosen(count, {1: 1.0, 2: 30.0}, TRIAL_INTERVAL)
    taken = chosen(count, {1: 1.0, 2: 0.5}, 20 * TRIAL_INTERVAL)
    assert taken[-TRIAL_INTERVAL:].count(2) >= TRIAL_INTERVAL - 2


def test_one_interruption_changes_nothing_and_a_lasting_one_does() -> None:
    count = ThreadCount(2)
    chosen(count, {1: 3.0, 2: 1.0}, TRIAL_INTERVAL)
    count.record(LONG, 2, 100, 100_000.0)
    assert count.choose(LONG) == 2
    taken = chosen(count, {1: 3.0, 2: 1000.0}, 8)
    assert taken[-2:] == [1, 1]


def test_the_first_call_with_each_number_does_not_count() -> None:
    count = ThreadCount(2)
    for threads, seconds in ((1, 3.0), (2, 1000.0)):
        count.record(LONG, threads, 100, 100 * seconds)
    assert chosen(count, {1: 3.0, 2: 1.0}, 10)[2:] == [2] * 8


def test_a_way_that_has_become_twice_as_fast_is_taken_after_one_trial() -> None:
    count = ThreadCount(2)
    chosen(count, {1: 3.0, 2: 1000.0}, 4)
    taken = chosen(count, {1: 3.0, 2: 1.0}, 2 * TRIAL_INTERVAL)
    assert taken[taken.index(2) :].count(1) <= 2


def test_each_size_has_its_own() -> None:
    """Waking a thread takes as long as several steps. So what is slow for a step is fast for many."""
    count = ThreadCount(2)
    chosen(count, {1: 1.0, 2: 30.0}, TRIAL_INTERVAL, steps=1, rows=1)
    chosen(count, {1: 1.0, 2: 0.5}, TRIAL_INTERVAL, rows=1)
    chosen(count, {1: 1.0, 2: 30.0}, TRIAL_INTERVAL, rows=40)
    assert [count.choose(size_of(steps, rows)) for steps, rows in ((1, 1), (200, 1), (100, 50))] == [1, 2, 1]


def test_one_core_leaves_nothing_to_choose() -> None:
    assert set(chosen(ThreadCount(1), {1: 1.0}, 3 * TRIAL_INTERVAL)) == {1}


def test_a_call_counts_by_its_steps() -> None:
    """Short calls, most of which is their beginning, say little of a step."""
    count = ThreadCount(2)
    for _ in range(3):
        count.record(LONG, 1, 100, 10.0)
        count.record(LONG, 2, 100, 6.0)
        count.record(LONG, 2, 16, 3.0)
    assert count.choose(LONG) == 2
