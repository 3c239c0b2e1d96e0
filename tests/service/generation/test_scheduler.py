import numpy as np
import pytest

from service.generation.request import Generation, Status
from service.generation.scheduler import QueueFull, Scheduler


def generation(prompt: int = 1, num_generate: int = 10, seed: int = 0, temperature: float = 1.0) -> Generation:
    return Generation(np.arange(prompt, dtype=np.int32) + 100, num_generate, temperature, seed)


def turn(scheduler: Scheduler, longest: int = 16) -> tuple[int, list[tuple[Generation, list[int]]]]:
    """One call by a network that always chooses 7 where it may; its steps, and what came out."""
    batch = scheduler.schedule(longest)
    assert batch is not None
    return len(batch.forced), scheduler.update(np.where(batch.forced >= 0, batch.forced, 7).astype(np.int32))


def test_nobody_here_is_no_call() -> None:
    assert Scheduler(2, 2).schedule(16) is None


def test_a_prompt_is_read_and_the_first_character_comes_with_its_last() -> None:
    scheduler = Scheduler(1, 0)
    one = generation(prompt=4, num_generate=3)
    scheduler.add(one)
    batch = scheduler.schedule(16)
    assert batch is not None
    assert batch.fresh.tolist() == [True]
    assert batch.inputs.tolist() == [100]
    assert batch.forced[:, 0].tolist() == [101, 102, 103, -1]
    assert scheduler.update(np.array([[101], [102], [103], [7]], np.int32)) == [(one, [7])]
    batch = scheduler.schedule(16)
    assert batch is not None
    assert batch.fresh.tolist() == [False]
    assert batch.inputs.tolist() == [7]
    assert batch.forced[:, 0].tolist() == [-1, -1]
    assert scheduler.update(np.array([[8], [9]], np.int32)) == [(one, [8, 9])]
    assert one.status is Status.FINISHED
    assert scheduler.schedule(16) is None


def test_a_long_prompt_is_read_a_call_at_a_time_while_others_generate() -> None:
    scheduler = Scheduler(2, 0)
    short = generation(num_generate=1000)
    scheduler.add(short)
    turn(scheduler)
    long = generation(prompt=100, num_generate=5)
    scheduler.add(long)
    read: list[int] = []
    while not long.generated:
        batch = scheduler.schedule(16)
        assert batch is not None
        read += [c for c in batch.forced[:, 1].tolist() if c >= 0]
        before = short.generated
        scheduler.update(np.full(batch.forced.shape, 7, np.int32))
        assert short.generated - before == len(batch.forced) <= 16
    assert read == list(range(101, 200))


def test_a_call_ends_at_the_first_character_somebody_waits_for_and_at_the_last_that_anybody_needs() -> None:
    scheduler = Scheduler(2, 0)
    scheduler.add(generation(prompt=3, num_generate=100))
    scheduler.add(generation(prompt=6, num_generate=4))
    assert [turn(scheduler)[0] for _ in range(3)] == [3, 3, 16]
    assert [g.generated for g in scheduler.running.values()] == [20]
    while scheduler.running:
        steps, _ = turn(scheduler)
    assert steps == 100 - 20 - 4 * 16


@pytest.mark.parametrize("calls", [[1], [16], [3, 16, 5]])
def test_the_nth_character_takes_the_nth_uniform_however_calls_are_cut(calls: list[int]) -> None:
    scheduler = Scheduler(1, 0)
    one = generation(prompt=5, num_generate=40, seed=11)
    scheduler.add(one)
    used: list[float] = []
    for i in range(1000):
        batch = scheduler.schedule(calls[i % len(calls)])
        if batch is None:
            break
        used += batch.uniforms[batch.forced < 0].tolist()
        scheduler.update(np.full(batch.forced.shape, 7, np.int32))
    assert used == np.random.Generator(np.random.Philox(key=11)).random(40, np.float32).tolist()


def test_slots_go_to_who_came_first_and_are_given_again() -> None:
    scheduler = Scheduler(2, 10)
    everybody = [generation(num_generate=1) for _ in range(5)]
    for one in everybody:
        scheduler.add(one)
    finished = []
    while scheduler.waiting or scheduler.running:
        finished.append([one for one, _ in turn(scheduler)[1]])
    assert finished == [everybody[:2], everybody[2:4], everybody[4:]]


def test_the_queue_is_bounded_beyond_the_free_slots() -> None:
    scheduler = Scheduler(2, 1)
    for _ in range(3):
        scheduler.add(generation())
    with pytest.raises(QueueFull):
        scheduler.add(generation())
    turn(scheduler)
    with pytest.raises(QueueFull):
        scheduler.add(generation())


def test_one_removed_in_mid_call_gets_nothing_and_leaves_its_slot_to_the_next() -> None:
    scheduler = Scheduler(1, 1)
    first, second = generation(num_generate=100), generation(num_generate=100)
    scheduler.add(first)
    scheduler.add(second)
    batch = scheduler.schedule(16)
    assert batch is not None
    scheduler.remove(first)
    assert scheduler.update(np.full(batch.forced.shape, 7, np.int32)) == []
    batch = scheduler.schedule(16)
    assert batch is not None
    assert batch.fresh.tolist() == [True]
    assert list(scheduler.running.values()) == [second]


def test_one_removed_from_the_queue_never_runs() -> None:
    scheduler = Scheduler(1, 2)
    everybody = [generation(num_generate=1) for _ in range(3)]
    for one in everybody:
        scheduler.add(one)
    scheduler.remove(everybody[1])
    ran = []
    while scheduler.waiting or scheduler.running:
        ran += [one for one, _ in turn(scheduler)[1]]
    assert ran == [everybody[0], everybody[2]]
