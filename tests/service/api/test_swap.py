"""A new version while the old one is under load: nobody notices but by the version number in the answer."""

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.sse import events
from tests.support import Gate, publish, serving, wait_until

BODY: dict[str, Any] = {"start_string": "To be", "num_generate": 150, "seed": 1}


@pytest.mark.slow
def test_ten_swaps_under_load_fail_no_request_and_mix_no_text(tmp_path: Path) -> None:
    publish(tmp_path, seed=1)
    texts: dict[int, set[str]] = {}
    with serving(Settings(models_dir=tmp_path, watch=0.05, slots=4)) as (app, client):
        engines = [app.state.registry.get(None).engine]

        async def load() -> None:
            stop = asyncio.Event()

            async def ask(peer: httpx.AsyncClient) -> None:
                while not stop.is_set():
                    response = await peer.post("/generate", json=BODY)
                    assert response.status_code == 200, response.text
                    answer = response.json()
                    texts.setdefault(answer["version"], set()).add(answer["text"])

            async def swap() -> None:
                try:
                    for version in range(1, 12):
                        if version > 1:
                            await asyncio.to_thread(publish, tmp_path, seed=version)
                        await asyncio.to_thread(wait_until, partial(texts.__contains__, version))
                        engines.append(app.state.registry.get(None).engine)
                finally:
                    stop.set()

            async with httpx.AsyncClient(base_url=client.base_url, timeout=60) as peer, asyncio.TaskGroup() as tasks:
                for _ in range(6):
                    tasks.create_task(ask(peer))
                tasks.create_task(swap())

        asyncio.run(load())
        assert sorted(texts) == list(range(1, 12))
        assert [len(found) for found in texts.values()] == [1] * 11, "one seed, one version, one text"
        assert len({next(iter(found)) for found in texts.values()}) == 11
        wait_until(lambda: all(engine.stopped for engine in engines[:-1]))
        assert not engines[-1].stopped


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
def test_a_request_whose_constraint_compiles_during_a_swap_is_served_by_the_new_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    body: dict[str, Any] = {"structured_outputs": {"regex": "[0-9]{3}"}, "on_unknown": "skip"}
    body |= {"prompt": "a漢"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "a漢"}]}
    if path == "/generate":
        body = {"start_string": "a漢", "regex": "[0-9]{3}", "on_unknown": "skip"}
    publish(tmp_path, seed=1)
    with serving(Settings(models_dir=tmp_path, watch=0.05)) as (app, client), ThreadPoolExecutor() as pool:
        old, compile_now = app.state.registry.get(None).engine, app.state.compiler.submit
        begun, waiting = threading.Event(), Future[Any]()

        def submit(*arguments: Any) -> Future[Any]:
            monkeypatch.setattr(app.state.compiler, "submit", compile_now)
            waiting.arguments = arguments  # type: ignore[attr-defined]
            begun.set()
            return waiting

        monkeypatch.setattr(app.state.compiler, "submit", submit)
        response = pool.submit(client.post, path, json=body)
        assert begun.wait(60)
        publish(tmp_path, seed=2)
        wait_until(lambda: old.stopped)
        waiting.set_result(app.state.compiler.compile(*waiting.arguments))  # type: ignore[attr-defined]
        answer = response.result(60)
    assert answer.status_code == 200, answer.text
    if path == "/generate":
        assert answer.json()["version"] == 2
    assert answer.headers["x-unknown-characters"] == "1"


def test_a_stream_ends_on_the_version_it_began_on_and_cannot_be_gone_on_with_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, seed=1)
    with serving(Settings(models_dir=tmp_path, watch=0.05)) as (app, client):
        body = BODY | {"num_generate": 3000, "stream": True}
        expected = client.post("/generate", json=body | {"stream": False}).json()["text"]
        gate = Gate(app.state.registry.get(None).engine.backend, monkeypatch, permits=1)
        with client.stream("POST", "/generate", json=body) as response:
            received = events(response.iter_bytes())
            first = next(received)
            publish(tmp_path, seed=2)
            wait_until(lambda: client.get("/models").json()["models"][0]["version"] == 2)
            gate.open()
            rest = list(received)
        assert rest[-1].data["version"] == 1
        assert BODY["start_string"] + "".join(event.data["text"] for event in [first, *rest[:-1]]) == expected
        again = client.post("/generate", json=body, headers={"Last-Event-ID": str(first.id)})
        assert again.status_code == 410
        assert client.post("/generate", json=BODY).json()["version"] == 2
