"""The engine with a real backend under random traffic: whatever comes and leaves, each gets what it gets alone."""

import asyncio
import random
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from service.generation.backends import load_library
from service.generation.core import EngineCore
from service.generation.engine import Engine
from service.generation.exact import ExactBackend
from service.generation.output_queue import concatenated
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from tests.support import VOCABULARY, random_tensors
from trainer.artifact import Architecture

pytestmark = pytest.mark.slow

ARCHITECTURE = Architecture(cell="lstm", layers=2, units=24, embedding=8, vocabulary=VOCABULARY)


@dataclass(frozen=True)
class Asked:
    ids: tuple[int, ...]
    num_generate: int
    sampling: Sampling
    seed: int
    stop: tuple[tuple[int, ...], ...]
    likeliest: int | None

    def generation(self, prompt: Prompt | None = None, deadline: float | None = None) -> Generation:
        prompt = prompt or Prompt(np.array(self.ids, np.int32))
        return Generation(prompt, self.num_generate, self.sampling, self.seed, self.stop, self.likeliest, deadline)


@dataclass(frozen=True)
class Got:
    characters: list[int]
    reason: str | None
    chosen: list[float]  # log-probabilities


def asked(rng: random.Random) -> Asked:
    size = len(VOCABULARY)
    return Asked(
        ids=tuple(rng.randrange(4) for _ in range(rng.choice([1, 2, 3])))
        if rng.random() < 0.5
        else tuple(rng.choices(range(size), k=50)),
        num_generate=rng.choice([1, 2, 3, 17, 60]),
        sampling=Sampling(
            rng.choice([0, 0.5, 1, 2]),
            rng.choice([None, None, 3, 500]),
            rng.choice([1, 1, 0.8]),
            rng.choice([0, 0, 0.05]),
            None if rng.random() < 0.8 else np.arange(size) % 3 == 0,
        ),
        seed=rng.randrange(4),
        stop=tuple(tuple(rng.choices(range(size), k=rng.choice([1, 2]))) for _ in range(rng.choice([0, 0, 1, 8]))),
        likeliest=rng.choice([None, None, 0, 5]),
    )


def alone(backend: ExactBackend, one: Asked) -> Got:
    """One step an iteration, no other requests."""
    core, got = EngineCore(backend, max_steps=1), Got([], None, [])
    core.submit(one.generation())
    while core.has_work:
        for _, chunk, reason in core.step()[0]:
            got.characters.extend(chunk.characters)
            if chunk.log_probabilities is not None:
                got.chosen.extend(chunk.log_probabilities.chosen.tolist())
            got = replace(got, reason=reason)
    return got


async def read_all(generation: Generation) -> Got:
    characters: list[int] = []
    parts = []
    while (chunk := await generation.output.get()).characters:
        characters += chunk.characters
        if chunk.log_probabilities is not None:
            parts.append(chunk.log_probabilities)
            assert len(chunk.log_probabilities.chosen) == len(chunk.characters)
            assert chunk.log_probabilities.top_ids.shape[1] == generation.top_logprobs
    return Got(characters, generation.output.finish_reason, concatenated(parts).chosen.tolist() if parts else [])


async def traffic(rng: random.Random, backend: ExactBackend, single: ExactBackend) -> set[str | None]:
    """Random requests at random times, some with shared prompts, some leaving early; why they ended."""
    core = EngineCore(
        backend,
        queue_limit=1000,
        max_steps=rng.choice([1, 3, 64]),
        iteration_seconds=rng.choice([0.0001, 0.003, 10]),
        prompt_cache=rng.choice([0, 2000, 1_000_000]),
    )
    engine = Engine(core, asyncio.get_running_loop())
    engine.start()
    reasons: set[str | None] = set()

    async def follow(one: Asked, generation: Generation) -> None:
        if rng.random() < 0.2:
            asyncio.get_running_loop().call_later(rng.choice([0, 0.02 * rng.random()]), engine.cancel, generation)
        got = await read_all(generation)
        reasons.add(got.reason)
        if got.reason in ("time", "cancelled"):
            expected = alone(single, replace(one, stop=()))
            assert got.characters == expected.characters[: len(got.characters)]
        else:
            assert got == alone(single, one)

    async def arrive(copies: int) -> None:
        await asyncio.sleep(rng.random() * 0.2)
        first = asked(rng)
        prompt = Prompt(np.array(first.ids, np.int32), shared=copies > 1)
        everybody = [replace(first, seed=first.seed + i) for i in range(copies)]
        deadline = time.perf_counter() + rng.choice([0, 0.05 * rng.random()]) if rng.random() < 0.2 else None
        generations = [one.generation(prompt, deadline) for one in everybody]
        engine.submit(*generations)
        await asyncio.gather(*(follow(one, generation) for one, generation in zip(everybody, generations, strict=True)))

    async with asyncio.timeout(120):
        await asyncio.gather(*(arrive(rng.choice([1, 1, 1, 1, 2, 9])) for _ in range(30)))
    assert (engine.running, engine.waiting) == (0, 0)
    engine.end("over")
    await asyncio.to_thread(engine.join)
    return reasons


@pytest.mark.parametrize("slots", [1, 3, 7])
def test_each_gets_what_it_gets_alone_whatever_comes_and_leaves(slots: int) -> None:
    tensors = random_tensors(ARCHITECTURE)
    backend, single = (ExactBackend(ARCHITECTURE, tensors, count, load_library()) for count in (slots, 1))
    reasons: set[str | None] = set()
    for seed in range(10):  # which ends come depends on the machine's speed too
        reasons |= asyncio.run(traffic(random.Random(100 * slots + seed), backend, single))
        if seed and reasons == {"length", "stop", "time", "cancelled"}:
            return
    pytest.fail(f"some ends never came: there were {reasons}")
