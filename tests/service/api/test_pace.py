"""`pace` limits the rate of an answer and holds no slot."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.api import pacing
from service.api.pacing import PacedReader
from service.generation.output_queue import Chunk
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from service.settings import Settings
from tests.sse import events
from tests.support import Publish, serving, stream, wait_until


class Clock:
    """Stands for asyncio where only time counts: a sleep takes as long as asked, and `late` seconds more."""

    def __init__(self, late: float) -> None:
        self.now, self._late = 5.0, late

    def get_running_loop(self) -> "Clock":
        return self

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds + self._late


@pytest.mark.parametrize("pace", [0.05, 3, 40, 999, 2000, 1e6])
@pytest.mark.parametrize("late", [0, 0.003])
def test_a_paced_reader_gets_so_many_characters_a_second_and_none_before_it_is_due(
    pace: float, late: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, count = Clock(late), max(20, int(pace * 2))
    monkeypatch.setattr(pacing, "asyncio", clock)
    generation = Generation(Prompt(np.zeros(1, np.int32)), count, Sampling(), seed=0)
    generation.output.put(Chunk([1] * count), "length")

    async def read() -> list[tuple[float, int]]:
        reader, arrived = PacedReader(generation, pace=pace), []
        while not reader.ended:
            chunk = await reader.read()
            arrived.append((clock.now, len(chunk.characters)))
        return arrived

    start, arrived = clock.now, asyncio.run(read())
    total = 0
    for now, characters in arrived:
        total += characters
        assert total <= (now - start) * pace + 1 + 1e-6
    assert total == count
    assert count / (arrived[-1][0] - start) == pytest.approx(pace, rel=0.05 + 1 / count)


@pytest.mark.slow
def test_a_slow_stream_is_no_faster_than_its_pace(client: httpx.Client) -> None:
    body = {"start_string": "a", "num_generate": 41, "stream": True, "pace": 40}
    start = time.perf_counter()
    with client.stream("POST", "/generate", json=body) as response:
        arrived = [time.perf_counter() for event in events(response.iter_raw()) if event.name == "message"]
    assert arrived[-1] - start > 0.95 * 40 / 40


def test_the_engine_is_free_long_before_a_slow_stream_has_ended(client: httpx.Client, engine: Any) -> None:
    with client.stream("POST", "/generate", json={"start_string": "a", "num_generate": 500, "stream": True, "pace": 2}) as response:
        received = events(response.iter_raw())
        assert next(received).data["text"]
        wait_until(lambda: engine.running == 0)
        assert next(received).name == "message"


def test_a_slow_stream_has_the_text_of_a_fast_one_and_so_has_a_whole_answer(client: httpx.Client) -> None:
    body: dict[str, Any] = {"start_string": "a", "num_generate": 60, "seed": 3, "stop": ["zz"], "logprobs": 1}
    fast = client.post("/generate", json=body).json()
    *texts, done = stream(client, **body, pace=200)
    assert "a" + "".join(event.data["text"] for event in texts) == fast["text"]
    assert done.data["seed"] == 3
    start = time.perf_counter()
    slow = client.post("/generate", json={**body, "pace": 200}).json()
    assert time.perf_counter() - start >= 59 / 200 - 0.001, "uvloop counts whole milliseconds"
    assert (slow["text"], slow["logprobs"]) == (fast["text"], fast["logprobs"])


def test_a_slow_stream_ends_with_an_error_event_when_the_server_does(tmp_path: Path, publish: Publish) -> None:
    """One that has been generated long since, and one that has not."""
    publish()
    body: dict[str, Any] = {"start_string": "a", "stream": True, "pace": 0.5}
    with (
        serving(Settings(models_dir=tmp_path)) as (app, client),
        client.stream("POST", "/generate", json=body | {"num_generate": 10}) as short,
        client.stream("POST", "/generate", json=body | {"num_generate": 100_000}) as long,
    ):
        both = [events(response.iter_raw()) for response in (short, long)]
        assert all(next(received).data["text"] for received in both)
        app.state.registry.end("over")
        for received in both:
            *_, last = received
            assert (last.name, last.data["error"]["code"]) == ("error", "engine_stopped")


def test_a_slow_stream_ends_when_its_client_leaves(tmp_path: Path, publish: Publish) -> None:
    publish()
    body: dict[str, Any] = {"start_string": "a", "num_generate": 1}
    with serving(Settings(models_dir=tmp_path, max_open=1)) as (_, client):

        def status() -> int:
            return client.post("/generate", json=body).status_code

        with client.stream("POST", "/generate", json=body | {"num_generate": 1000, "stream": True, "pace": 1}) as response:
            received = events(response.iter_raw())  # kept: httpx closes the connection when its iterator is dropped
            assert next(received).data["text"]
            assert status() == 429
        wait_until(lambda: status() == 200)
