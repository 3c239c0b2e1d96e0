"""The engine with a backend whose every choice is known: a slot counts up from its prompt's last character."""

import asyncio
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from service.generation.backend import Batch, Decoded
from service.generation.core import EngineCore, StepBudget
from service.generation.engine import Engine, EngineStopped
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from service.generation.scheduler import QueueFull
from tests.support import wait_until


class Counter:
    """Chooses input + 1. `calls` keeps each batch; where `gate` is set, a call waits for a permit."""

    name: str = "counter"
    precision = "none"
    arithmetic = "none"

    def __init__(self, slots: int, gate: threading.Semaphore | None = None) -> None:
        self.slots, self.gate, self.calls = slots, gate, list[Batch]()
        self.called = threading.Semaphore(0)

    def decode(self, batch: Batch) -> Decoded:
        self.calls.append(batch)
        self.called.release()
        if self.gate is not None:
            self.gate.acquire()
        chosen, character = [], batch.inputs
        for forced in batch.forced:
            character = np.where(forced >= 0, forced, character + 1).astype(np.int32)
            chosen.append(character)
        zero = np.zeros((1, 1), np.float32)
        return Decoded(np.stack(chosen), {int(b): zero for b in np.flatnonzero(batch.snapshot_at >= 0)}, None)


class Broken(Counter):
    def decode(self, batch: Batch) -> Decoded:
        raise MemoryError(f"no room for {len(batch.slots)}")


def generation(first: int, num_generate: int = 5, prompt: int = 1) -> Generation:
    return Generation(Prompt(np.full(prompt, first, np.int32)), num_generate, Sampling(), 0)


@asynccontextmanager
async def running(backend: Counter, queue_limit: int = 100, chunk: int = 4, iteration_timeout: float = 60) -> AsyncIterator[Engine]:
    loop = asyncio.get_running_loop()
    core = EngineCore(backend, queue_limit=queue_limit, max_steps=chunk, iteration_seconds=60, prompt_cache=1000)
    engine = Engine(core, loop, iteration_timeout=iteration_timeout)
    engine.start()
    try:
        yield engine
    finally:
        if backend.gate is not None:
            backend.gate.release(1_000_000)
        engine.end("over")
        await asyncio.to_thread(engine.join)


async def read(one: Generation) -> list[int]:
    return list((await one.output.get()).characters)


async def read_all(one: Generation) -> list[int]:
    characters: list[int] = []
    while new := await read(one):
        characters += new
    return characters


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(limited())


def test_everybody_gets_their_own_characters_whether_slots_are_few_or_many() -> None:
    async def test() -> None:
        for slots in (1, 3, 50):
            async with running(Counter(slots)) as engine:
                everybody = [generation(1000 * i, num_generate=i + 1, prompt=i % 9 + 1) for i in range(50)]
                for one in everybody:
                    engine.submit(one)
                results = await asyncio.gather(*(read_all(one) for one in everybody))
                for i, characters in enumerate(results):
                    assert characters == list(range(1000 * i + 1, 1000 * i + i + 2))
                    assert everybody[i].output.finish_reason == "length"
                assert (engine.running, engine.waiting) == (0, 0)

    run(test)


def test_the_first_character_comes_alone_and_before_the_rest_is_computed() -> None:
    async def test() -> None:
        gate = threading.Semaphore(1)
        async with running(Counter(1, gate)) as engine:
            one = generation(0, num_generate=9, prompt=3)
            engine.submit(one)
            assert await read(one) == [1]  # one permit: one call
            gate.release()
            assert await read(one) == [2, 3, 4, 5]

    run(test)


def test_a_slow_reader_finds_all_it_missed_at_once() -> None:
    async def test() -> None:
        async with running(Counter(2)) as engine:
            slow, quick = generation(0, num_generate=100), generation(500, num_generate=200)
            engine.submit(slow)
            engine.submit(quick)
            assert len(await read_all(quick)) == 200
            assert await read(slow) == list(range(1, 101))
            assert await read(slow) == []

    run(test)


def test_a_cancelled_generation_is_in_no_call_after_the_one_under_way() -> None:
    async def test() -> None:
        gate = threading.Semaphore(0)
        backend = Counter(1, gate)
        async with running(backend) as engine:
            leaving, next_one = generation(0, num_generate=1000), generation(500, num_generate=3)
            engine.submit(leaving)
            engine.submit(next_one)
            await asyncio.to_thread(backend.called.acquire)  # the first call is under way
            engine.cancel(leaving)
            engine.cancel(leaving)  # again is no fault
            gate.release(1000)
            assert await read_all(next_one) == [501, 502, 503]
            assert await read_all(leaving) == []
            assert leaving.output.finish_reason == "cancelled"
            assert [batch.inputs.tolist() for batch in backend.calls] == [[0], [500], [501]]

    run(test)


def test_a_waiting_generation_can_be_cancelled() -> None:
    async def test() -> None:
        gate = threading.Semaphore(0)
        async with running(Counter(1, gate)) as engine:
            first, second = generation(0), generation(500)
            engine.submit(first)
            engine.submit(second)
            engine.cancel(second)
            gate.release(1000)
            assert len(await read_all(first)) == 5
            assert (engine.running, engine.waiting) == (0, 0)

    run(test)


def test_more_than_the_queue_holds_is_refused_and_what_it_holds_is_served() -> None:
    async def test() -> None:
        gate = threading.Semaphore(0)
        async with running(Counter(1, gate), queue_limit=2) as engine:
            taken = [generation(i * 100) for i in range(3)]
            for one in taken:
                engine.submit(one)
            with pytest.raises(QueueFull):
                engine.submit(generation(0))
            with pytest.raises(QueueFull):
                engine.submit(generation(0), generation(0))
            gate.release(1000)
            assert [len(await read_all(one)) for one in taken] == [5, 5, 5]

    run(test)


def test_a_backend_that_fails_reaches_every_waiter_and_later_ones_are_refused() -> None:
    async def test() -> None:
        async with running(Broken(1)) as engine:
            everybody = [generation(i) for i in range(3)]
            engine.submit(*everybody)
            for one in everybody:
                with pytest.raises(EngineStopped, match="no room for 1"):
                    await one.output.get()
            with pytest.raises(EngineStopped, match="no room for 1"):
                engine.submit(generation(0))

    run(test)


def test_stopping_ends_everybody_with_a_word() -> None:
    async def test() -> None:
        gate = threading.Semaphore(1)
        backend = Counter(1, gate)
        async with running(backend) as engine:
            current, waiting = generation(0, num_generate=1000), generation(500)
            engine.submit(current)
            engine.submit(waiting)
            assert await read(current) == [1]
            engine.end("shutting down")
            for one in (current, waiting):
                with pytest.raises(EngineStopped, match="shutting down"):
                    await read_all(one)
            gate.release(1000)
            with pytest.raises(EngineStopped):
                engine.submit(generation(0))

    run(test)


def test_a_call_takes_about_the_time_it_may_whatever_a_step_takes() -> None:
    speed = StepBudget(max_steps=64, iteration_seconds=0.03)
    assert speed.steps(1) <= 4, "what is not known yet is tried with few steps"
    for _ in range(50):
        speed.measured((speed.steps(1), 1), 0.0001 * speed.steps(1))
        speed.measured((speed.steps(64), 64), 0.005 * speed.steps(64))
    assert (speed.steps(1), speed.steps(64)) == (64, 6)
    for _ in range(50):
        speed.measured((speed.steps(64), 64), 0.1 * speed.steps(64))
    assert speed.steps(64) == 1


def test_the_wait_is_told_from_what_was_measured_and_what_there_is_to_do() -> None:
    async def test() -> None:
        gate = threading.Semaphore(0)
        async with running(Counter(1, gate), queue_limit=2) as engine:
            engine._core._budget.measured((10, 10), 0.01)  # 10,000 characters a second
            engine.submit(generation(0, num_generate=100_000))
            await asyncio.to_thread(engine.backend.called.acquire)  # type: ignore[attr-defined]
            engine.submit(generation(0, num_generate=20_000, prompt=10_001), generation(0, num_generate=1))
            with pytest.raises(QueueFull) as full:
                engine.submit(generation(0))
            assert full.value.seconds == pytest.approx(13.0, rel=0.01)

    run(test)


@pytest.mark.slow
def test_what_waits_for_a_slow_reader_is_four_bytes_a_character() -> None:
    async def test() -> None:
        async with running(Counter(2), chunk=64) as engine:
            slow, quick = generation(0, num_generate=50_000), generation(0, num_generate=50_001)
            engine.submit(slow, quick)
            assert len(await read_all(quick)) == 50_001
            assert sys.getsizeof(slow.output._characters) < 50_000 * 4 * 1.25
            assert await read_all(slow) == list(range(1, 50_001))

    run(test)


def test_an_engine_that_has_ended_keeps_no_backend() -> None:
    async def test() -> None:
        backend = Counter(1)
        held = weakref.ref(backend)
        async with running(backend) as engine:
            del backend
            one = generation(0)
            engine.submit(one)
            assert (await read(one))[0] == 1
            assert held() is not None
        assert engine.stopped
        assert held() is None

    run(test)


@pytest.mark.slow
def test_a_call_that_does_not_return_ends_its_requests_until_it_does(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        gate = threading.Semaphore(0)
        async with running(Counter(1, gate), iteration_timeout=0.06) as engine:
            one, waiting = generation(0), generation(10)
            engine.submit(one, waiting)
            for hit in (one, waiting):
                with pytest.raises(EngineStopped, match=r"the backend has not returned for 0\.06 s"):
                    await read(hit)
            assert (engine.running, engine.waiting, engine.failed) == (0, 0, False)
            with pytest.raises(EngineStopped, match="has not returned"):
                engine.submit(generation(20))
            engine._tick = 60  # the last request may take its time
            gate.release(1_000_000)
            await asyncio.to_thread(wait_until, lambda: engine.hung is None)
            later = generation(30)
            engine.submit(later)
            assert await read_all(later) == [31, 32, 33, 34, 35]
            assert one.output.finish_reason == "error"

    run(test)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


@pytest.mark.slow
def test_the_time_in_which_a_machine_sleeps_is_not_a_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        gate, backend = threading.Semaphore(0), Counter(1)
        backend.gate = gate
        async with running(backend, iteration_timeout=20) as engine:
            one = generation(0, num_generate=1)
            engine.submit(one)
            await asyncio.to_thread(backend.called.acquire)
            loop = asyncio.get_running_loop()
            now = loop.time
            monkeypatch.setattr(loop, "time", lambda: now() + 30)  # nothing has run for that long
            for _ in range(10):
                await asyncio.sleep(0)
            assert engine.hung is None
            gate.release()
            assert await read(one) == [1]

    run(test)
