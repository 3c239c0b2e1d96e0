"""POST /generate over a real socket, by httpx, with a small published model."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.generation.sampling import Sampling
from service.settings import Settings
from tests.sse import events
from tests.support import (
    ARCHITECTURE,
    ENDLESS,
    VOCABULARY,
    Gate,
    Publish,
    connected,
    metric,
    random_tensors,
    reference_text,
    serving,
    stream,
    wait_until,
)


def test_the_answer_is_the_start_string_continued_as_the_reference_does(client: httpx.Client) -> None:
    tensors = random_tensors(ARCHITECTURE, seed=len("tiny"))
    expected = reference_text(ARCHITECTURE, tensors, "ROMEO: ", 120, Sampling(temperature=0.7), seed=42)
    body = {"start_string": "ROMEO: ", "temperature": 0.7, "num_generate": 120, "seed": 42}
    answer = client.post("/generate", json=body).json()
    assert answer["text"] == expected
    assert answer | {"id": "", "timings": {}, "text": ""} == {
        "id": "",
        "model": "tiny",
        "version": 1,
        "engine": "native",
        "precision": "int8",
        "start_string": "ROMEO: ",
        "text": "",
        "seed": 42,
        "finish_reason": "length",
        "usage": {"prompt_characters": 7, "generated_characters": 120},
        "timings": {},
    }
    assert set(answer["timings"]) == {"queue_ms", "prefill_ms", "decode_ms", "characters_per_second"}
    assert all(value > 0 for value in answer["timings"].values())


def test_defaults_are_a_thousand_characters_at_temperature_one(client: httpx.Client) -> None:
    answer = client.post("/generate", json={"start_string": "a"}).json()
    assert len(answer["text"]) == 1001
    again = client.post(
        "/generate", json={"start_string": "a", "seed": answer["seed"], "temperature": 1, "num_generate": 1000}
    ).json()
    assert again["text"] == answer["text"]
    assert client.post("/generate", json={"start_string": "a"}).json()["seed"] != answer["seed"]


def test_a_stream_is_the_same_text_and_ends_with_the_rest_of_the_answer(client: httpx.Client) -> None:
    body: dict[str, Any] = {"start_string": "é語🎭\u2028\n", "num_generate": 500, "seed": 7}
    whole = client.post("/generate", json=body).json()
    *texts, done = stream(client, **body)
    assert {event.name for event in texts} == {"message"}
    assert all(list(event.data) == ["text"] and event.data["text"] for event in texts)
    assert body["start_string"] + "".join(event.data["text"] for event in texts) == whole["text"]
    assert {"\u2028", "\n"} <= set(whole["text"][5:]), "characters that careless readers split lines at must be among those sent"
    assert done.name == "done"
    assert done.data.keys() == whole.keys() - {"text"}
    for field in done.data.keys() - {"id", "timings"}:
        assert done.data[field] == whole[field]


def test_every_event_has_an_id_of_its_own_and_the_first_comes_with_the_first_character(
    client: httpx.Client, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(engine.backend, monkeypatch, permits=1)
    with client.stream("POST", "/generate", json={"start_string": "a", "num_generate": 100, "stream": True}) as response:
        received = events(response.iter_bytes())
        first = next(received)
        gate.open()
        rest = list(received)
    assert len(first.data["text"]) == 1
    assert rest[-1].name == "done"
    assert len({event.id for event in (first, *rest)} - {None}) == 1 + len(rest)


def test_accept_asks_for_a_stream_too_and_its_headers_keep_proxies_from_holding_it(client: httpx.Client) -> None:
    headers = {"Accept": "text/event-stream"}
    with client.stream("POST", "/generate", json={"start_string": "a", "num_generate": 3}, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        assert [event.name for event in events(response.iter_bytes())][-1] == "done"


def test_temperature_zero_takes_the_likeliest_whatever_the_seed(client: httpx.Client) -> None:
    texts = {
        client.post("/generate", json={"start_string": "a", "temperature": 0, "num_generate": 99, "seed": s}).json()["text"]
        for s in "123"
    }
    assert len(texts) == 1


def test_sampling_fields_reach_the_sampling(client: httpx.Client) -> None:
    body: dict[str, Any] = {"start_string": "a", "seed": 3, "num_generate": 300}

    def text(**fields: Any) -> str:
        return str(client.post("/generate", json={**body, **fields}).json()["text"][1:])

    plain = text()
    assert text(top_k=1) == text(top_p=1e-9) == text(min_p=1) == text(temperature=0)
    assert set(text(allowed_characters="xyz")) == set("xyz")
    assert text(top_k=len(VOCABULARY)) == text(top_k=10_000) == text(top_p=1) == text(min_p=0) == plain
    assert len({plain, text(top_k=5), text(top_p=0.5), text(min_p=0.2), text(temperature=0.5)}) == 5


def test_a_text_ends_before_its_first_stop_string_and_a_stream_never_shows_a_part_of_one(client: httpx.Client) -> None:
    body: dict[str, Any] = {"start_string": "a", "seed": 3, "num_generate": 400}
    whole = client.post("/generate", json=body).json()["text"][1:]
    for start in (0, 1, 100, 333, 396):
        stop = whole[start : start + 4]
        fields = {**body, "stop": [stop, "not there", "unknown \u00df"]}
        answer = client.post("/generate", json=fields).json()
        assert (answer["text"], answer["finish_reason"]) == ("a" + whole[: whole.index(stop)], "stop")
        assert answer["usage"]["generated_characters"] == whole.index(stop)
        *texts, done = stream(client, **fields)
        assert "".join(event.data["text"] for event in texts) == whole[: whole.index(stop)]
        assert done.data["finish_reason"] == "stop"
    one = client.post("/generate", json={**body, "stop": whole[50:60]}).json()
    assert one["text"] == "a" + whole[: whole.index(whole[50:60])]


def test_the_time_limit_ends_running_and_waiting_requests(client: httpx.Client, engine: Any) -> None:
    body = ENDLESS | {"stream": False, "max_time_ms": 300}
    answer = client.post("/generate", json=body).json()
    assert answer["finish_reason"] == "time"
    assert 0 < answer["usage"]["generated_characters"] == len(answer["text"]) - 1
    with held(client, engine, 4):
        waited = client.post("/generate", json=body | {"max_time_ms": 1}).json()
        assert (waited["text"], waited["finish_reason"]) == ("a", "time")
        assert waited["timings"] == {
            "queue_ms": waited["timings"]["queue_ms"],
            "prefill_ms": 0,
            "decode_ms": 0,
            "characters_per_second": 0,
        }
        *texts, done = stream(client, **body | {"max_time_ms": 1})
        assert (texts, done.data["finish_reason"]) == ([], "time")


@contextmanager
def held(client: httpx.Client, engine: Any, count: int) -> Iterator[None]:
    """So many streams without an end have slots or wait for them."""
    with ExitStack() as streams:
        for _ in range(count):
            assert streams.enter_context(client.stream("POST", "/generate", json=ENDLESS)).status_code == 200
        wait_until(lambda: engine.running + engine.waiting == count)
        yield
    wait_until(lambda: engine.running == engine.waiting == 0)


def test_the_same_start_string_again_gives_the_same_text_without_reading_it(client: httpx.Client, read: list[int]) -> None:
    prompt = "It comes again and again, and " * 100
    body = {"start_string": prompt, "num_generate": 30, "seed": 9}
    first = client.post("/generate", json=body).json()
    read.clear()
    again = client.post("/generate", json=body).json()
    assert sum(read) == 0
    longer = client.post("/generate", json={**body, "start_string": prompt + "a"}).json()
    assert sum(read) == len(prompt)
    assert again["text"] == first["text"]
    assert longer["text"].startswith(prompt + "a")


@pytest.mark.slow
def test_a_reader_that_does_not_read_holds_nobody_up_and_gets_everything_later(client: httpx.Client) -> None:
    """Its text is larger than all buffers between: the kernel's, and the server's, which stops writing at 64 KB."""
    body = {"start_string": "a", "num_generate": 30_000, "seed": 4, "stream": True, "allowed_characters": "\U0001f3adé語"}
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((client.base_url.host, client.base_url.port))
        data = json.dumps(body).encode()
        head = f"POST /generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n"
        slow.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
        for _ in range(20):
            assert client.post("/generate", json={"start_string": "b", "num_generate": 200}).status_code == 200
        whole = client.post("/generate", json=body | {"stream": False}).json()["text"][1:]
        received = b"".join(iter(lambda: slow.recv(65536), b""))
    texts = re.findall(r'data: \{"text":"(.*?)"\}\n', received.decode())
    assert "".join(texts) == whole
    assert b"event: done" in received


def test_a_model_is_chosen_by_name(client: httpx.Client) -> None:
    body = {"start_string": "a", "seed": 1, "num_generate": 60}
    tiny, other = (client.post("/generate", json={**body, "model": name}).json() for name in ("tiny", "other"))
    assert (tiny["model"], other["model"]) == ("tiny", "other")
    assert tiny["text"] != other["text"]


def test_many_at_once_on_few_slots_get_what_they_get_alone(client: httpx.Client) -> None:
    bodies = [
        {"start_string": VOCABULARY[i] * (i % 30 + 1), "num_generate": 20 + 13 * i, "seed": i, "temperature": i % 3 * 0.5}
        for i in range(12)
    ]
    alone = [client.post("/generate", json=body).json()["text"] for body in bodies]

    def whole(body: dict[str, Any]) -> str:
        return str(client.post("/generate", json=body).json()["text"])

    def streamed(body: dict[str, Any]) -> str:
        return str(body["start_string"]) + "".join(event.data["text"] for event in stream(client, **body)[:-1])

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(whole, bodies)) == alone
        assert list(pool.map(streamed, bodies)) == alone


def test_unknown_characters_are_named_with_their_positions(client: httpx.Client) -> None:
    for streamed in (False, True):
        response = client.post("/generate", json={"start_string": "aßb@ß", "stream": streamed})
        assert response.status_code == 422
        assert response.json() == {
            "error": {
                "code": "unknown_characters",
                "message": "not in the model's vocabulary: 'ß' at position 1, 4; '@' at position 3",
                "type": "invalid_request_error",
                "param": "start_string",
            }
        }


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 422, "invalid_value", "start_string"),
        ({"start_string": ""}, 422, "invalid_value", "start_string"),
        ({"start_string": 5}, 422, "invalid_value", "start_string"),
        ({"start_string": "a" * 10_001}, 422, "too_long", "start_string"),
        ({"start_string": "a", "temperature": -0.1}, 422, "invalid_value", "temperature"),
        ({"start_string": "a", "num_generate": 0}, 422, "invalid_value", "num_generate"),
        ({"start_string": "a", "num_generate": ENDLESS["num_generate"] + 1}, 422, "too_long", "num_generate"),
        ({"start_string": "a", "num_generate": 1.5}, 422, "invalid_value", "num_generate"),
        ({"start_string": "a", "seed": 2**64}, 422, "invalid_value", "seed"),
        ({"start_string": "a", "seed": -(2**63) - 1}, 422, "invalid_value", "seed"),
        ({"start_string": "a", "model": "absent"}, 404, "model_not_found", "model"),
        ({"start_string": "a", "temprature": 1}, 422, "invalid_value", "temprature"),
        ({"start_string": "a", "top_k": -2}, 422, "invalid_value", "top_k"),
        ({"start_string": "a", "top_p": -0.1}, 422, "invalid_value", "top_p"),
        ({"start_string": "a", "top_p": 1.1}, 422, "invalid_value", "top_p"),
        ({"start_string": "a", "min_p": -1}, 422, "invalid_value", "min_p"),
        ({"start_string": "a", "allowed_characters": ""}, 422, "invalid_value", "allowed_characters"),
        ({"start_string": "a", "allowed_characters": "aß"}, 422, "unknown_characters", "allowed_characters"),
        ({"start_string": "a", "stop": 5}, 422, "invalid_value", "stop"),
        ({"start_string": "a", "stop": ["a", ""]}, 422, "invalid_value", "stop.1"),
        ({"start_string": "a", "stop": ["a"] * 17}, 422, "invalid_value", "stop"),
        ({"start_string": "a", "max_time_ms": 0}, 422, "invalid_value", "max_time_ms"),
        ({"start_string": "a", "max_time_ms": 10**400}, 422, "invalid_value", "max_time_ms"),
        ({"start_string": "a", "allowed_characters": "a" * 10_001}, 422, "invalid_value", "allowed_characters"),
        ([1], 422, "invalid_value", None),
    ],
)
def test_every_error_has_the_same_shape(client: httpx.Client, body: Any, status: int, code: str, param: str) -> None:
    response = client.post("/generate", json=body)
    assert response.status_code == status
    assert response.json().keys() == {"error"}
    error = response.json()["error"]
    assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
    assert error["message"]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"start_string": ', 422, "invalid_json"),
        (b'{"start_string": "a", "temperature": NaN}', 422, "invalid_json"),
        (b'{"start_string": "a", "temperature": 1e999}', 422, "invalid_json"),
        (b'{"start_string": "\\ud800"}', 422, "invalid_value"),
        (b'{"start_string": "a", "\\ud800": 1}', 422, "invalid_value"),
        (b'{"start_string": "\xff"}', 422, "invalid_json"),
        (b"", 422, "invalid_value"),
    ],
)
def test_invalid_json_and_invalid_text_are_rejected(client: httpx.Client, content: bytes, status: int, code: str) -> None:
    response = client.post("/generate", content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_unknown_paths_and_methods_have_that_shape_too(client: httpx.Client) -> None:
    for response, status in ((client.get("/absent"), 404), (client.delete("/generate"), 405)):
        assert response.status_code == status
        assert response.json()["error"]["code"] == f"http_{status}"


def test_beyond_the_queue_the_answer_is_429_with_retry_after(client: httpx.Client, engine: Any) -> None:
    with held(client, engine, 12):
        response = client.post("/generate", json={"start_string": "a"})
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) > 1000, "twelve billion characters are to come"
    assert response.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize("streamed", [True, False])
def test_a_dropped_connection_frees_its_slot(client: httpx.Client, engine: Any, streamed: bool) -> None:
    body = ENDLESS | {"stream": streamed}
    content = json.dumps(body).encode()
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with connected(client) as leaving:
        leaving.sendall(head % len(content) + content)
        wait_until(lambda: engine.running == 1)
        if streamed:
            assert leaving.recv(4096).startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: engine.running == 0)


def test_a_dropped_connections_slot_is_free_before_the_call_under_way_ends(
    client: httpx.Client, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(engine.backend, monkeypatch, permits=1)
    body = {"start_string": "a", "num_generate": 1000, "stream": True}
    with httpx.Client(base_url=client.base_url, timeout=60) as leaving, leaving.stream("POST", "/generate", json=body) as response:
        chunks = response.iter_bytes()
        assert b"text" in next(chunks)
        wait_until(lambda: gate.arrived == 2)  # the second call is under way
    wait_until(lambda: engine.running == 0)
    gate.open()
    assert client.post("/generate", json={"start_string": "a", "num_generate": 1}).status_code == 200
    assert gate.arrived == 2 + 1


def test_a_stream_with_nothing_to_say_is_kept_alive(client: httpx.Client, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.sse.KEEP_ALIVE", 0.05)
    gate = Gate(engine.backend, monkeypatch, permits=0)
    body = {"start_string": "a", "num_generate": 3, "stream": True}
    with client.stream("POST", "/generate", json=body) as response:
        chunks = response.iter_bytes()
        assert next(chunks).startswith(b":")
        gate.open()
        *texts, done = events(chunks)
    assert "".join(event.data["text"] for event in texts)
    assert done.name == "done"


def test_a_client_that_leaves_the_queue_is_not_waited_for(client: httpx.Client, engine: Any) -> None:
    def cancelled() -> float:
        return metric(client.get("/metrics").text, "folio_request_success_total", finished_reason="cancelled")

    with held(client, engine, 4):
        before = cancelled()
        with httpx.Client(base_url=client.base_url, timeout=60) as leaving, leaving.stream("POST", "/generate", json=ENDLESS):
            wait_until(lambda: (engine.running, engine.waiting) == (4, 1))
        wait_until(lambda: engine.waiting == 0)
        assert engine.running == 4
        assert cancelled() == before + 1


@pytest.mark.slow
def test_the_openapi_document_describes_generate(client: httpx.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/generate"]["post"]
    assert operation["responses"].keys() >= {"200", "404", "422", "429", "503"}
    assert operation["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}
    assert operation["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith("ErrorBody")


def test_an_engine_that_dies_reaches_all_who_wait_and_another_takes_its_place(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    settings = Settings(models_dir=tmp_path, slots=2, watch=0.05, max_num_generate=ENDLESS["num_generate"])
    with serving(settings) as (app, client), ThreadPoolExecutor(5) as pool:
        engine = app.state.registry.get("tiny").engine
        decode, dies = engine.backend.decode, threading.Event()

        def failing(batch: Any) -> Any:
            if dies.is_set():
                raise MemoryError("the device is gone")
            return decode(batch)

        monkeypatch.setattr(engine.backend, "decode", failing)
        body = ENDLESS | {"stream": False}
        asked = [pool.submit(client.post, "/generate", json=body) for _ in range(5)]
        wait_until(lambda: engine.running == 2 and engine.waiting == 3)
        dies.set()
        for one in asked:
            assert one.result().status_code == 500
            assert one.result().json()["error"]["code"] == "engine_failed"
        wait_until(lambda: client.get("/healthz").status_code == client.get("/readyz").status_code == 200)
        assert client.post("/generate", json=body | {"num_generate": 5}).status_code == 200


def test_an_engine_that_dies_ends_a_stream_with_an_error_event(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    with serving(Settings(models_dir=tmp_path, slots=2, watch=0)) as (app, client):  # with a watch it is replaced
        backend = app.state.registry.get("tiny").engine.backend
        decode, calls = backend.decode, iter(range(3))

        def failing(batch: Any) -> Any:
            if next(calls, None) is None:
                raise MemoryError("the device is gone")
            return decode(batch)

        monkeypatch.setattr(backend, "decode", failing)
        *texts, last = stream(client, start_string="a", num_generate=10_000)
        assert 1 <= len(texts) <= 3, "a call's text each, or more where the reader was late"
        assert last.name == "error"
        assert last.data["error"]["code"] == "engine_failed"
        assert last.id
        for response in (client.post("/generate", json={"start_string": "a"}), client.get("/healthz"), client.get("/readyz")):
            assert response.status_code == 503
            assert "the device is gone" in response.json()["error"]["message"]
