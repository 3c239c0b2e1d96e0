"""What a client sees of a fault plan, over real sockets."""

import asyncio
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fastapi import FastAPI

from service.api import pacing
from service.api.pacing import PacedReader
from service.fault_plan import Plan
from service.generation.output_queue import Chunk
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from service.settings import Settings
from service.weather import RequestFaults, Weather
from tests.service.api.test_pace import Clock
from tests.sse import events
from tests.support import Publish, connected, listening, metric, publish, wait_until

TEXT: dict[str, Any] = {"start_string": "a", "num_generate": 60, "seed": 3}
COMPLETION: dict[str, Any] = {"prompt": "a", "max_tokens": 60, "seed": 3}
CLOCK = 0.001  # seconds: uvloop counts whole milliseconds, rounded down


@contextmanager
def with_plan(folder: Path, plan: dict[str, Any] | None = None, **settings: Any) -> Iterator[tuple[FastAPI, httpx.Client]]:
    """A server of the models in the folder, as `python -m service` starts it."""
    if plan is not None:
        settings["faults"] = folder / ".plan.json"
        settings["faults"].write_text(json.dumps(plan))
    with listening(Settings(models_dir=folder, port=0, shutdown_delay=0, **settings)) as (app, client):
        assert app.state.registry.wait_until_loaded(60)
        yield app, client


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FastAPI, httpx.Client]]:
    models = tmp_path_factory.mktemp("models")
    publish(models)
    with with_plan(models, fault_header=True, default_model="tiny") as both:
        yield both


@pytest.fixture
def client(both: tuple[FastAPI, httpx.Client]) -> httpx.Client:
    return both[1]


@pytest.fixture
def weather(both: tuple[FastAPI, httpx.Client]) -> Weather:
    found: Weather = both[0].state.weather
    return found


def by(**plan: Any) -> dict[str, str]:
    return {"X-Folio-Faults": json.dumps(plan)}


def broken(kind: str, at: int = 20, **fields: Any) -> dict[str, str]:
    return by(breaks=[{"kind": kind, "at": at, **fields}])


def received(client: httpx.Client, path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[bytes, bool]:
    """The bytes of a response, and whether it came to its proper end."""
    parts: list[bytes] = []
    with client.stream("POST", path, json=body, headers=headers) as response:
        assert response.status_code == 200
        try:
            parts.extend(response.iter_raw())
        except httpx.RemoteProtocolError:
            return b"".join(parts), False
    return b"".join(parts), True


def decoded(content: bytes) -> str:
    """Faults cut bytes, not characters, so the text may end within one."""
    return content.decode("utf-8", "surrogateescape")


def data_of(content: bytes) -> list[str]:
    return [line.removeprefix("data: ") for line in decoded(content).split("\n") if line.startswith("data: ")]


def whole_text(client: httpx.Client) -> str:
    text: str = client.post("/generate", json=TEXT | {"echo": False}).json()["text"]
    return text


@pytest.mark.parametrize(("path", "body"), [("/generate", TEXT), ("/v1/completions", COMPLETION)])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_error_has_the_one_shape_and_its_headers(client: httpx.Client, path: str, body: dict[str, Any], streamed: bool) -> None:
    found = []
    for status, retry_after in [(429, 2), (500, None), (503, 0), (529, None), (404, 1), (405, 1), (422, 1)]:
        error = {"status": status} | ({} if retry_after is None else {"retry_after": retry_after})
        response = client.post(path, json=body | {"stream": streamed}, headers=by(errors=[error]))
        assert response.status_code == status
        assert response.headers.get("retry-after") == (None if retry_after is None else str(retry_after))
        assert response.json()["error"]["code"] == "planned_fault"
        found.append(response.json()["error"]["type"])
    assert found == ["rate_limit_error", *["server_error"] * 3, *["invalid_request_error"] * 3]


MESSAGES = [{"role": "user", "content": "a"}]
PROTOCOLS: dict[str, dict[str, Any]] = {
    "/generate": TEXT,
    "/v1/completions": COMPLETION,
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 60},
    "/v1/responses": {"input": "a", "max_output_tokens": 60},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 60, "model": "tiny"},
    "/api/chat": {"messages": MESSAGES, "options": {"num_predict": 60}},
    "/api/generate": {"prompt": "a", "options": {"num_predict": 60}},
}


def is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:  # not JSON, or not UTF-8
        return False
    return True


WHOLE: dict[str, dict[str, Any]] = {path: body | {"stream": False} for path, body in PROTOCOLS.items()} | {
    "/v1/embeddings": {"input": "a"},
    "/api/embed": {"input": "a"},
    "/api/embeddings": {"prompt": "a"},
    "/score": {"text": "to be"},
}


@pytest.mark.slow
@pytest.mark.parametrize("path", WHOLE)
def test_every_operation_that_uses_the_engine_meets_the_plan(client: httpx.Client, path: str) -> None:
    body = WHOLE[path]
    response = client.post(path, json=body, headers=by(errors=[{"status": 503, "retry_after": 7}]))
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")
    assert "planned fault" in response.text
    start = time.perf_counter()
    assert client.post(path, json=body, headers=by(ttft_ms=100)).status_code == 200
    assert time.perf_counter() - start >= 0.1 - CLOCK
    assert received(client, path, body, broken("cut", 5))[1] is False


@pytest.mark.parametrize("path", PROTOCOLS)
def test_the_streams_of_every_protocol_break(client: httpx.Client, path: str) -> None:
    body = PROTOCOLS[path] | {"stream": True}
    for kind, ends in [("cut", False), ("truncated", True), ("malformed", True)]:
        content, ended = received(client, path, body, broken(kind))
        assert ended == ends
        lines = [line.removeprefix(b"data: ") for line in content.split(b"\n") if b"{" in line]
        faulty = [line for line in lines if not is_json(line)]
        assert len(faulty) == (kind != "cut")
        assert kind != "truncated" or faulty == lines[-1:]


@pytest.mark.slow
def test_latencies_delay_a_stream_and_a_whole_answer(client: httpx.Client) -> None:
    headers = by(ttft_ms=300, itl_ms=5)
    start = time.perf_counter()
    with client.stream("POST", "/generate", json=TEXT | {"stream": True}, headers=headers) as response:
        arrived = [(time.perf_counter() - start, event.data) for event in events(response.iter_raw()) if event.name == "message"]
    assert arrived[0][0] >= 0.3 - CLOCK
    assert arrived[-1][0] >= 0.3 + 59 * 0.005 - CLOCK
    assert "".join(data["text"] for _, data in arrived) == whole_text(client)
    for path, body in [("/generate", TEXT), ("/v1/completions", COMPLETION)]:
        start = time.perf_counter()
        assert client.post(path, json=body, headers=headers).status_code == 200
        assert time.perf_counter() - start >= 0.3 + 59 * 0.005 - CLOCK


def test_no_character_of_a_reader_is_early_and_all_come(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, count = Clock(0.003), 500
    monkeypatch.setattr(pacing, "asyncio", clock)
    plan = {"ttft_ms": 12_000, "itl_ms": {"distribution": "lognormal", "mean": 7, "stddev": 9}}
    faults = RequestFaults(Weather(Plan.model_validate(plan)), None)
    faults.begin("tiny", 1)
    generation = Generation(Prompt(np.zeros(1, np.int32)), count, Sampling(), seed=0)
    generation.output.put(Chunk([1] * count), "length")
    reader, due = PacedReader(generation), faults.delays(0)
    reader.delays = faults.delays(0)
    assert due

    async def read() -> list[tuple[float, int]]:
        arrived = []
        while not reader.ended:
            chunk = await reader.read()
            arrived.append((clock.now, len(chunk.characters)))
        return arrived

    start, arrived = clock.now, asyncio.run(read())
    assert arrived[0][0] == pytest.approx(start + pacing.LONGEST_WAIT, abs=0.3), "its stream can be kept alive"
    assert arrived[0][1] == 0
    total = 0
    for now, characters in arrived:
        assert now - start + 1e-9 >= due.due(max(0, total + characters - 1)) or not characters
        total += characters
    assert total == count


def test_an_answer_without_characters_waits_too(client: httpx.Client) -> None:
    start = time.perf_counter()
    assert client.post("/score", json={"text": "to be"}, headers=by(ttft_ms=200, itl_ms=10_000)).status_code == 200
    assert time.perf_counter() - start >= 0.2 - CLOCK


def test_a_pace_and_a_latency_hold_together(client: httpx.Client) -> None:
    for pace, itl in [(1000, 20), (50, 1)]:
        start = time.perf_counter()
        client.post("/generate", json=TEXT | {"num_generate": 11, "pace": pace}, headers=by(itl_ms=itl))
        assert time.perf_counter() - start >= 10 * 0.02 - CLOCK


def test_a_delayed_request_holds_no_slot_and_leaves_no_trace(both: tuple[FastAPI, httpx.Client]) -> None:
    app, client = both
    engine = app.state.registry.get("tiny").engine

    def generated() -> float:
        return metric(client.get("/metrics").text, "folio_generation_tokens_total")

    before = generated()
    with client.stream("POST", "/generate", json=TEXT | {"stream": True}, headers=by(ttft_ms=3_000_000)):
        wait_until(lambda: generated() == before + TEXT["num_generate"])
        wait_until(lambda: engine.running == 0)
        assert app.state.weather.num_open == 1
    wait_until(lambda: app.state.weather.num_open == 0)


@pytest.mark.parametrize("at", [0, 20, 59])
def test_a_cut_stream_ends_after_so_many_characters_without_its_end(client: httpx.Client, at: int) -> None:
    content, ended = received(client, "/generate", TEXT | {"stream": True}, broken("cut", at))
    assert not ended
    assert "".join(json.loads(data)["text"] for data in data_of(content)) == whole_text(client)[:at]
    content, ended = received(client, "/v1/completions", COMPLETION | {"stream": True, "n": 2}, broken("cut", at))
    assert not ended
    assert sum(len(json.loads(data)["choices"][0]["text"]) for data in data_of(content)) == at


def test_a_shorter_text_is_cut_at_its_end(client: httpx.Client) -> None:
    content, ended = received(client, "/generate", TEXT | {"stream": True}, broken("cut", 1000))
    assert not ended
    assert "".join(json.loads(data)["text"] for data in data_of(content)) == whole_text(client)
    assert b"event: done" not in content


def request_of(body: dict[str, Any], headers: dict[str, str]) -> bytes:
    content = json.dumps(body).encode()
    head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for name, value in headers.items():
        head += f"{name}: {value}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(content) + content


def test_a_cut_is_seen_on_the_wire_and_is_no_error_of_the_server(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with connected(client) as connection:
        connection.sendall(request_of(TEXT | {"stream": True}, broken("cut")))
        content = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"transfer-encoding: chunked" in content
    assert not content.endswith(b"0\r\n\r\n")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_cut_json_answer_is_shorter_than_its_length(client: httpx.Client) -> None:
    for path, body in [("/generate", TEXT), ("/v1/completions", COMPLETION)]:
        assert [(len(content), ended) for content, ended in [received(client, path, body, broken("cut"))]] == [(20, False)]
    content, ended = received(client, "/generate", TEXT, broken("cut", 10**6))
    assert not ended
    with pytest.raises(json.JSONDecodeError):
        json.loads(content)


def test_a_malformed_stream_has_one_event_of_broken_json(client: httpx.Client) -> None:
    for path, body in [("/generate", TEXT), ("/v1/completions", COMPLETION)]:
        content, ended = received(client, path, body | {"stream": True}, broken("malformed"))
        assert ended
        assert [is_json(data.encode("utf-8", "surrogateescape")) for data in data_of(content) if data != "[DONE]"].count(False) == 1


def test_a_truncated_stream_ends_properly_within_an_event(client: httpx.Client) -> None:
    content, ended = received(client, "/generate", TEXT | {"stream": True}, broken("truncated"))
    assert ended
    *texts, last = data_of(content)
    assert "".join(json.loads(data)["text"] for data in texts) == whole_text(client)[:20]
    assert decoded(content).endswith("data: " + last)
    with pytest.raises(json.JSONDecodeError):
        json.loads(last)


@pytest.mark.parametrize("kind", ["malformed", "truncated"])
def test_a_malformed_json_answer_has_its_length(client: httpx.Client, kind: str) -> None:
    response = client.post("/generate", json=TEXT, headers=broken(kind))
    assert len(response.content) == int(response.headers["content-length"])
    with pytest.raises(json.JSONDecodeError):
        response.json()


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
def test_a_stalled_answer_goes_on_after_its_silence(client: httpx.Client, streamed: bool) -> None:
    start = time.perf_counter()
    content, ended = received(client, "/generate", TEXT | {"stream": streamed}, broken("stall", seconds=0.4))
    assert time.perf_counter() - start >= 0.4 - CLOCK
    assert ended
    if streamed:
        assert "".join(json.loads(data).get("text", "") for data in data_of(content)) == whole_text(client)
    else:
        assert json.loads(content)["text"] == "a" + whole_text(client)


def num_stalled(client: httpx.Client) -> float:
    return metric(client.get("/metrics").text, "folio_planned_faults_total", kind="stall")


@pytest.mark.parametrize("streamed", [False, True])
def test_an_endless_stall_ends_when_the_client_leaves(client: httpx.Client, weather: Weather, streamed: bool) -> None:
    before = num_stalled(client)
    with connected(client) as connection:
        connection.sendall(request_of(TEXT | {"stream": streamed}, broken("stall")))
        wait_until(lambda: num_stalled(client) > before)
        assert weather.num_open == 1
    wait_until(lambda: weather.num_open == 0)


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
def test_an_endless_stall_ends_when_the_server_stops(tmp_path: Path, publish: Publish, streamed: bool) -> None:
    publish()
    plan = {"breaks": [{"kind": "stall", "at": 5}]}
    with with_plan(tmp_path, plan, shutdown_grace=0.1) as (app, client), ThreadPoolExecutor() as beside:
        answer = beside.submit(received, client, "/generate", TEXT | {"stream": streamed}, {})
        wait_until(lambda: num_stalled(client) and app.state.registry.get("tiny").engine.running == 0)
        app.state.registry.end("over")
        content, ended = answer.result(timeout=30)
    assert ended
    assert b'"finish_reason"' in content


def test_a_header_that_cannot_be_is_refused_by_the_name_of_its_field(client: httpx.Client) -> None:
    for content, said in [("{", "column"), ('{"errors": [{"status": 99}]}', "errors.0.status: "), ('{"seed": "x"}', "seed: ")]:
        headers = {"X-Folio-Faults": content}
        for path, body, status in [("/generate", TEXT, 422), ("/v1/completions", COMPLETION, 400)]:
            response = client.post(path, json=body, headers=headers)
            assert response.status_code == status
            error = response.json()["error"]
            assert (error["code"], error["param"]) == ("invalid_value", "X-Folio-Faults")
            assert error["message"].startswith("X-Folio-Faults: ")
            assert said in error["message"]
        assert client.get("/v1/models", headers=headers).status_code == 200


def outcomes(client: httpx.Client, count: int) -> list[tuple[int, bool]]:
    """What becomes of a sequence of requests, every other one streamed: its status, and whether it came to its proper end."""
    found = []
    for i in range(count):
        with client.stream("POST", "/generate", json=TEXT | {"stream": i % 2 == 0}) as response:
            ended = False
            with suppress(httpx.RemoteProtocolError):
                response.read()
                ended = True
            found.append((response.status_code, ended))
    return found


def test_the_same_sequence_of_requests_meets_the_same_faults_again(tmp_path: Path, publish: Publish) -> None:
    publish()
    plan = {"seed": 5, "errors": [{"status": 429, "rate": 0.3}], "breaks": [{"kind": "cut", "at": 0, "rate": 0.4}]}
    runs = []
    for _ in range(2):
        with with_plan(tmp_path, plan) as (_, client):
            runs.append(outcomes(client, 30))
    assert runs[0] == runs[1]
    assert set(runs[0]) == {(429, True), (200, True), (200, False)}


def test_a_plan_is_shown_counted_and_logged(tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    publish()
    plan = {"models": {"tiny": {"errors": [{"status": 500}]}}}
    with with_plan(tmp_path, plan, fault_header=True) as (_, client):
        assert "for tests only" in caplog.text
        for path in ("/healthz", "/readyz"):
            response = client.get(path)
            assert (response.status_code, response.json()["status"]) == (200, "degraded-by-plan")
        assert metric(client.get("/metrics").text, "folio_planned_faults_total") == 0
        assert client.post("/generate", json=TEXT).status_code == 500
        received(client, "/generate", TEXT | {"stream": True}, by(errors=[], ttft_ms=1, breaks=[{"kind": "cut", "at": 5}]))
        wait_until(lambda: metric(client.get("/metrics").text, "folio_planned_faults_total", kind="cut") == 1)
        exposition = client.get("/metrics").text
        assert {kind: metric(exposition, "folio_planned_faults_total", kind=kind) for kind in ("500", "latency", "stall")} == {
            "500": 1, "latency": 1, "stall": 0,
        }  # fmt: skip
        for path in ("/v1/models", "/models/tiny", "/v1/models/tiny", "/metrics"):
            assert client.get(path).status_code == 200
    lines = [record for record in caplog.records if record.name == "service.middleware.request_log"]
    failed, cut = [record for record in lines if hasattr(record, "planned_faults")]
    assert failed.planned_faults == ["500"]
    assert (cut.planned_faults, vars(cut)["finish_reasons"], vars(cut)["sent_characters"]) == (["latency", "cut"], "error", 5)
    assert "by plan: latency, cut" in cut.getMessage()


def test_a_slow_start_up_is_alive_but_not_ready(tmp_path: Path, publish: Publish) -> None:
    publish()
    with with_plan(tmp_path, {"startup_seconds": 3000}) as (app, client):
        assert client.get("/healthz").status_code == 200
        for response in (client.get("/readyz"), client.post("/generate", json=TEXT)):
            assert response.status_code == 503
            assert int(response.headers["retry-after"])
            assert "delays the start" in response.json()["error"]["message"]
        app.state.weather.clock = lambda: time.monotonic() + 3000
        assert client.get("/readyz").status_code == 200
        assert client.post("/generate", json=TEXT).status_code == 200


def test_latencies_grow_with_the_open_requests(client: httpx.Client, weather: Weather) -> None:
    with ExitStack() as stalled:
        for _ in range(3):
            response = stalled.enter_context(
                client.stream("POST", "/generate", json=TEXT | {"stream": True}, headers=broken("stall", 1))
            )
            response.parts = response.iter_raw()  # type: ignore[attr-defined]  # kept: httpx closes the connection otherwise
            next(response.parts)  # type: ignore[attr-defined]
        start = time.perf_counter()
        client.post("/generate", json=TEXT, headers=by(ttft_ms={"per_running": 100}))
        assert time.perf_counter() - start >= 0.3 - CLOCK
    wait_until(lambda: weather.num_open == 0)


def test_rate_limit_headers_count_down_and_are_in_errors_too(tmp_path: Path, publish: Publish) -> None:
    publish()
    plan = {"rate_limits": {"requests": 2, "tokens": 1000, "reset_seconds": 3000, "counts": True}}
    with with_plan(tmp_path, plan) as (_, client):
        found = [client.post("/v1/completions", json=COMPLETION) for _ in range(3)]
        assert [response.status_code for response in found] == [200, 200, 429]
        assert [response.headers["x-ratelimit-remaining-requests"] for response in found] == ["1", "0", "0"]
        assert [response.headers["x-ratelimit-remaining-tokens"] for response in found] == ["939", "878", "878"]
        assert {response.headers["x-ratelimit-limit-tokens"] for response in found} == {"1000"}
        assert found[0].headers["x-ratelimit-reset-requests"] == "50m0s"
        assert 0 < int(found[2].headers["retry-after"]) <= 3000
        assert "x-ratelimit-limit-tokens" not in client.get("/v1/models").headers


def test_an_official_client_retries_and_reports_what_it_should(client: httpx.Client) -> None:
    def ask(retries: int, **plan: Any) -> Any:
        with openai.OpenAI(
            base_url=str(client.base_url.join("/v1")), api_key="none", max_retries=retries, default_headers=by(**plan)
        ) as one:
            return one.completions.create(model="tiny", **COMPLETION, stream=True)

    def faults() -> float:
        return metric(client.get("/metrics").text, "folio_planned_faults_total", kind="503")

    with pytest.raises(openai.RateLimitError, match="planned fault"):
        ask(0, errors=[{"status": 429, "retry_after": 0}])
    before = faults()
    with pytest.raises(openai.InternalServerError):
        ask(1, errors=[{"status": 503, "retry_after": 0}])
    assert faults() == before + 2


def test_by_default_there_is_no_trace_of_it(tmp_path: Path, publish: Publish) -> None:
    publish()
    with with_plan(tmp_path) as (app, client):
        response = client.post("/generate", json=TEXT, headers=by(errors=[{"status": 500}], rate_limits={"requests": 1}))
        assert response.status_code == 200
        assert response.headers["x-ignored-fields"] == "X-Folio-Faults"
        assert "x-ratelimit-limit-requests" not in response.headers
        assert "planned" not in client.get("/metrics").text
        assert client.get("/healthz").json() == client.get("/readyz").json() == {"status": "ok"}
        assert "WeatherMiddleware" not in str(app.user_middleware)
        assert "x-ignored-fields" not in client.post("/generate", json=TEXT).headers


def test_a_plan_that_cannot_be_ends_the_start(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"errors": [{"status": 429, "rate": 7}]}')
    done = subprocess.run(
        [sys.executable, "-m", "service", "--faults", str(plan)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert f"error: --faults: {plan}: errors.0.rate: " in done.stderr
