"""The scheduler with a network that chooses 7 wherever it may."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.generation.backend import Batch, Decoded, LogProbabilities
from service.generation.prompt_cache import PromptCache
from service.generation.request import Generation, Prompt, Status
from service.generation.sampling import Sampling
from service.generation.scheduler import Output, Scheduler


def made(slots: int, queue_limit: int, prompt_cache: int = 0) -> Scheduler:
    return Scheduler(slots, queue_limit, PromptCache(prompt_cache))


def generation(prompt: int = 1, num_generate: int = 10, seed: int = 0, **options: Any) -> Generation:
    return Generation(Prompt(np.arange(prompt, dtype=np.int32) + 100), num_generate, Sampling(), seed, **options)


def decoded(batch: Batch, choice: int = 7) -> Decoded:
    """The state kept of a row holds how many characters are behind it, counted from its start."""
    kept = {int(b): np.full((1, 1), batch.snapshot_at[b], np.float32) for b in np.flatnonzero(batch.snapshot_at >= 0)}
    return Decoded(np.where(batch.forced >= 0, batch.forced, choice).astype(np.int32), kept, None)


def turn(scheduler: Scheduler, longest: int = 16) -> tuple[int, list[Output]]:
    """One call; its steps, and what came out."""
    batch = scheduler.schedule(longest)
    assert batch is not None
    return len(batch.forced), scheduler.update(decoded(batch))


def test_nobody_here_is_no_call() -> None:
    assert made(2, 2).schedule(16) is None


def test_a_prompt_is_read_and_the_first_character_comes_with_its_last() -> None:
    scheduler = made(1, 0)
    one = generation(prompt=4, num_generate=3)
    scheduler.add(one)
    batch = scheduler.schedule(16)
    assert batch is not None
    assert batch.starts == {0: None}
    assert batch.inputs.tolist() == [100]
    assert batch.forced[:, 0].tolist() == [101, 102, 103, -1]
    (first,) = scheduler.update(decoded(batch))
    assert (first.generation, first.chunk.characters, first.reason) == (one, [7], None)
    batch = scheduler.schedule(16)
    assert batch is not None
    assert batch.starts == {}
    assert batch.inputs.tolist() == [7]
    assert batch.forced[:, 0].tolist() == [-1, -1]
    (last,) = scheduler.update(decoded(batch, 9))
    assert (last.chunk.characters, last.reason) == ([9, 9], "length")
    assert one.status is Status.FINISHED
    assert scheduler.schedule(16) is None


def test_a_long_prompt_is_read_a_call_at_a_time_while_others_generate() -> None:
    scheduler = made(2, 0)
    short = generation(num_generate=1000)
    scheduler.add(short)
    turn(scheduler)
    long = generation(prompt=100, num_generate=5)
    scheduler.add(long)
    read: list[int] = []
    while not long.num_emitted:
        batch = scheduler.schedule(16)
        assert batch is not None
        read += [c for c in batch.forced[:, 1].tolist() if c >= 0]
        before = short.num_emitted
        scheduler.update(decoded(batch))
        assert short.num_emitted - before == len(batch.forced) <= 16
    assert read == list(range(101, 200))


def test_a_call_ends_at_the_last_first_character_within_its_reach_and_at_the_last_that_anybody_needs() -> None:
    scheduler = made(3, 0)
    scheduler.add(generation(prompt=3, num_generate=100))
    scheduler.add(generation(prompt=6, num_generate=4))
    scheduler.add(generation(prompt=20, num_generate=4))
    assert turn(scheduler)[0] == 6
    assert [g.num_sampled for g in scheduler.running.values()] == [4, 1, 0]
    assert turn(scheduler)[0] == 20 - 6
    assert [g.num_sampled for g in scheduler.running.values()] == [4 + 14, 1]
    assert turn(scheduler)[0] == 16
    while scheduler.running:
        steps, _ = turn(scheduler)
    assert steps == (100 - 4 - 14) % 16


@pytest.mark.parametrize("calls", [[1], [16], [3, 16, 5]])
def test_the_nth_character_takes_the_nth_uniform_however_calls_are_cut(calls: list[int]) -> None:
    scheduler = made(1, 0)
    one = generation(prompt=5, num_generate=400, seed=11)
    scheduler.add(one)
    used: list[float] = []
    for i in range(1000):
        batch = scheduler.schedule(calls[i % len(calls)])
        if batch is None:
            break
        used += batch.uniforms[batch.forced < 0].tolist()
        scheduler.update(decoded(batch))
    assert used == np.random.Generator(np.random.Philox(key=11)).random(400, np.float32).tolist()


def test_slots_go_to_who_came_first_and_are_given_again() -> None:
    scheduler = made(2, 10)
    everybody = [generation(num_generate=1) for _ in range(5)]
    for one in everybody:
        scheduler.add(one)
    finished = []
    while scheduler.waiting or scheduler.running:
        finished.append([output.generation for output in turn(scheduler)[1]])
    assert finished == [everybody[:2], everybody[2:4], everybody[4:]]


def test_the_queue_is_bounded_beyond_the_free_slots() -> None:
    scheduler = made(2, 1)
    assert scheduler.has_room(3)
    assert not scheduler.has_room(4)
    scheduler.add(generation(), generation(), generation())
    assert not scheduler.has_room(1)
    turn(scheduler)
    assert not scheduler.has_room(1)


def test_one_removed_in_mid_call_gets_nothing_and_leaves_its_slot_to_the_next() -> None:
    scheduler = made(1, 1)
    first, second = generation(num_generate=100), generation(num_generate=100)
    scheduler.add(first)
    scheduler.add(second)
    batch = scheduler.schedule(16)
    assert batch is not None
    scheduler.remove(first)
    assert scheduler.update(decoded(batch)) == []
    batch = scheduler.schedule(16)
    assert batch is not None
    assert batch.starts == {0: None}
    assert list(scheduler.running.values()) == [second]


def test_one_removed_from_the_queue_never_runs() -> None:
    scheduler = made(1, 2)
    everybody = [generation(num_generate=1) for _ in range(3)]
    for one in everybody:
        scheduler.add(one)
    scheduler.remove(everybody[1])
    ran = []
    while scheduler.waiting or scheduler.running:
        ran += [output.generation for output in turn(scheduler)[1]]
    assert ran == [everybody[0], everybody[2]]


def test_continuations_of_one_prompt_read_it_once() -> None:
    scheduler = made(4, 4)
    prompt = Prompt(np.arange(100, 130, dtype=np.int32), shared=True)
    everybody = [Generation(prompt, 3, Sampling(), seed) for seed in range(3)]
    scheduler.add(*everybody, generation(num_generate=1))
    read, rows = 0, []
    while (batch := scheduler.schedule(16)) is not None:
        read += int((batch.forced >= 0).sum())
        rows.append(len(batch.slots))
        for b, state in batch.starts.items():
            assert (state is not None) == (scheduler.running[int(batch.slots[b])] in everybody[1:])
        scheduler.update(decoded(batch))
    assert read == 29
    assert rows[0] == 2, "who shares the prompt waits for it, who does not runs"
    assert all(one.num_sampled == 3 for one in everybody)


def test_when_the_reader_of_a_shared_prompt_leaves_the_next_one_reads_it() -> None:
    scheduler = made(4, 4)
    prompt = Prompt(np.arange(100, 140, dtype=np.int32), shared=True)
    everybody = [Generation(prompt, 3, Sampling(), seed) for seed in range(3)]
    scheduler.add(*everybody)
    turn(scheduler)
    scheduler.remove(everybody[0])
    while scheduler.waiting or scheduler.running:
        turn(scheduler)
    assert [one.num_sampled for one in everybody] == [0, 3, 3]


@pytest.mark.parametrize("length", [3, 4, 5, 8, 9])
def test_the_state_of_a_shared_prompt_is_kept_also_where_nothing_is_generated(length: int) -> None:
    scheduler = made(1, 0)
    prompt = Prompt(np.arange(length, dtype=np.int32), shared=True)
    scheduler.add(Generation(prompt, 0, Sampling(), 0))
    outputs = [output for _ in range(4) if scheduler.running or scheduler.waiting for output in turn(scheduler, 4)[1]]
    assert [(output.chunk.characters, output.reason) for output in outputs] == [([], "length")]
    assert prompt.state is not None


def test_a_text_that_is_scored_takes_no_place_in_the_cache() -> None:
    scheduler = made(1, 0, prompt_cache=1000)
    scheduler.add(Generation(Prompt(np.arange(5, dtype=np.int32), scored=True), 0, Sampling(), 0, top_logprobs=0))
    while scheduler.running or scheduler.waiting:
        batch = scheduler.schedule(16)
        assert batch is not None
        p = LogProbabilities(np.zeros(batch.forced.shape, np.float32), *(np.zeros((*batch.forced.shape, 0)) for _ in range(2)))
        scheduler.update(replace(decoded(batch), log_probabilities=p))
    assert scheduler.prompts.size == 0


def test_a_prompt_that_comes_again_is_not_read_again() -> None:
    scheduler = made(2, 0, prompt_cache=1000)
    scheduler.add(generation(prompt=5, num_generate=1))
    batch = scheduler.schedule(16)
    assert batch is not None
    assert batch.snapshot_at.tolist() == [4]
    scheduler.update(decoded(batch))
    scheduler.add(generation(prompt=5, num_generate=1))
    again = scheduler.schedule(16)
    assert again is not None
    assert again.forced.tolist() == [[-1]]
    assert again.inputs.tolist() == [104]
    assert again.starts[0] is not None
    assert again.starts[0].tolist() == [[4]]
    assert again.snapshot_at.tolist() == [-1]


def test_the_cache_holds_what_its_bytes_hold_and_forgets_what_was_not_used_for_longest() -> None:
    cache, state = PromptCache(300), np.zeros((2, 10), np.float32)  # 80 bytes, and 20 for each prompt
    prompts = [np.arange(i, i + 5, dtype=np.int32) for i in range(4)]
    for prompt in prompts[:3]:
        cache.put(prompt, state)
    assert cache.size == 300
    assert cache.get(prompts[0]) is state
    cache.put(prompts[3], state)
    assert [cache.get(prompt) is None for prompt in prompts] == [False, True, False, False]
    cache.put(prompts[1], np.zeros((100, 100), np.float32))
    assert cache.size == 300, "what is larger than the cache drives nobody out"


def test_a_deadline_ends_a_generation_that_runs_and_one_that_waits() -> None:
    scheduler = made(1, 2)
    now = time.perf_counter()
    running, waiting, patient = (generation(num_generate=1000, deadline=deadline) for deadline in (now, now, now + 1000))
    scheduler.add(running, waiting, patient)
    ended = [(output.generation, output.reason) for output in turn(scheduler)[1] if output.reason]
    assert ended == [(running, "time"), (waiting, "time")]
    assert running.num_emitted == 1
    assert waiting.num_emitted == 0
    turn(scheduler)
    assert list(scheduler.running.values()) == [patient]


def test_a_deadline_takes_nothing_that_the_reader_has_had_before() -> None:
    scheduler = made(slots=1, queue_limit=0)
    scheduler.add(generation(num_generate=1000, deadline=0.0, already_sent=40))
    outputs: list[Output] = []
    while not outputs or not outputs[-1].reason:
        outputs += turn(scheduler)[1]
    assert outputs[-1].reason == "time"
    assert 40 <= sum(len(output.chunk.characters) for output in outputs) < 60


def test_the_beginning_of_a_stop_string_is_held_back_and_let_go_at_a_deadline() -> None:
    scheduler = made(1, 0)
    one = generation(num_generate=1000, stop=[[7, 7, 7, 8]], deadline=time.perf_counter() + 1000)
    scheduler.add(one)
    passed = [output.chunk.characters for _ in range(2) for output in turn(scheduler)[1]]
    assert passed == [[], [7] * 14]
    one.deadline = 0
    (*_, last) = turn(scheduler)[1]
    assert last.reason == "time"
    assert one.num_emitted == one.num_sampled == 33


def test_log_probabilities_stay_with_their_characters_across_a_stop_string_held_back() -> None:
    scheduler = made(1, 0)
    one = generation(num_generate=6, stop=[[3, 9], [4, 5, 6]], top_logprobs=2)
    scheduler.add(one)
    outputs: list[Output] = []
    for step, choice in enumerate([1, 2, 3, 4, 5, 7]):
        batch = scheduler.schedule(1)
        assert batch is not None
        assert batch.top_logprobs == 2
        top = np.tile(np.arange(20, dtype=np.int32), (1, 1, 1))
        p = LogProbabilities(np.full((1, 1), -step, np.float32), top, top.astype(np.float32))
        outputs += scheduler.update(Decoded(np.array([[choice]], np.int32), {}, p))
    assert [output.chunk.characters for output in outputs] == [[1], [2], [], [3], [], [4, 5, 7]]
    parts = [output.chunk.log_probabilities for output in outputs if output.chunk.log_probabilities is not None]
    assert [p for part in parts for p in part.chosen.tolist()] == [0, -1, -2, -3, -4, -5]
    assert {part.top_ids.shape[1] for part in parts} == {2}
