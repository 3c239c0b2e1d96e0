"""What the log says of requests, and what it does not."""

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_correlation_id import correlation_id

from service import logs
from service.registry import Registry
from service.settings import Settings
from tests.support import ENDLESS, Publish, metric, serving, stream, wait_until

Lines = Callable[[int], list[dict[str, Any]]]
SECRET, KEY = "Sesame", "correct-horse-battery"


@pytest.fixture
def lines(client: httpx.Client) -> Iterator[Lines]:
    """lines(least): what is logged of requests, as JSON, once there are so many: a line comes after its answer."""
    client.get("/healthz")  # is answered after the line of the request before is written
    written = StringIO()
    handler, root = logs.json_handler(written), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)

    def logged() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in written.getvalue().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in found if line["logger"] == "service.middleware.request_log"]

    def lines(least: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(logged()) >= least)
        return logged()

    yield lines
    root.removeHandler(handler)
    root.setLevel(level)


def test_a_generation_is_one_line_with_counts_times_and_reason(client: httpx.Client, lines: Lines) -> None:
    client.post("/generate", json={"start_string": SECRET, "num_generate": 40})
    stream(client, start_string=SECRET, num_generate=30)
    client.post("/v1/completions", json={"prompt": SECRET, "n": 2, "max_tokens": 10})
    client.post("/score", json={"text": SECRET})
    told = lines(4)
    assert [(line["path"], line["status"], line["sent_characters"]) for line in told] == [
        ("/generate", 200, 40), ("/generate", 200, 30), ("/v1/completions", 200, 20), ("/score", 200, 0),
    ]  # fmt: skip
    for line in told:
        assert (line["model"], line["version"], line["prompt_characters"]) == ("tiny", 1, len(SECRET))
        assert line["finish_reasons"] == "length"
        assert line["seconds"] >= line["queue_seconds"] >= 0
        assert (line["level"], line["method"], line["client"]) == ("INFO", "POST", "127.0.0.1")
        assert SECRET not in json.dumps(line)
    for line in told[:3]:
        assert line["seconds"] > line["first_seconds"] > 0


def test_the_name_of_a_called_tool_counts_as_sent_though_it_is_sent_later(client: httpx.Client, lines: Lines) -> None:
    tool = {"type": "function", "function": {"name": "hour"}}
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": [tool], "tool_choice": "required", "stream": True}
    client.post("/v1/chat/completions", json={**body, "pace": 50})  # so that no event has the whole name
    (line,) = lines(1)
    assert line["sent_characters"] == line["generated_characters"] == len("hour {}")


def test_prompts_are_logged_when_that_is_asked_for(tmp_path: Path, publish: Publish, lines: Lines) -> None:
    publish()
    with serving(Settings(models_dir=tmp_path, log_prompts=True)) as (_, client):
        client.post("/generate", json={"start_string": SECRET, "num_generate": 1})
        assert [line["prompts"] for line in lines(1)] == [[SECRET]]


def test_who_leaves_is_logged_as_cancelled(client: httpx.Client, engine: Any, lines: Lines) -> None:
    with client.stream("POST", "/generate", json=ENDLESS) as response:
        received = response.iter_raw()  # kept: httpx closes the connection when its iterator is dropped
        next(received)
    assert [line["finish_reasons"] for line in lines(1)] == ["cancelled"]
    assert engine.running == 0


PACED: dict[str, Any] = {"prompt": "a", "start_string": "a", "max_tokens": 1000, "num_generate": 1000, "pace": 5}


def paced(path: str, **fields: Any) -> dict[str, Any]:
    names = ("prompt", "max_tokens", "pace") if path == "/v1/completions" else ("start_string", "num_generate", "pace")
    return {name: PACED[name] for name in names} | fields


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_a_slow_stream_that_is_cut_is_logged_with_what_was_sent_of_it(
    client: httpx.Client, engine: Any, lines: Lines, path: str
) -> None:
    with client.stream("POST", path, json=paced(path, stream=True)) as response:
        received = response.iter_raw()
        next(received)
        wait_until(lambda: engine.running == 0)
        next(received)
    (line,) = lines(1)
    assert (line["generated_characters"], line["finish_reasons"]) == (1000, "cancelled")
    assert 2 <= line["sent_characters"] < 500
    assert f" 1 + {line['sent_characters']} characters, cancelled" in line["message"]


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_a_slow_answer_that_the_end_of_the_server_cuts_is_logged_as_an_error(
    tmp_path: Path, publish: Publish, lines: Lines, path: str
) -> None:
    publish()
    with serving(Settings(models_dir=tmp_path)) as (app, client), ThreadPoolExecutor() as beside:
        whole = beside.submit(client.post, path, json=paced(path))
        with client.stream("POST", path, json=paced(path, stream=True)) as response:
            received = response.iter_raw()
            next(received)
            wait_until(lambda: metric(client.get("/metrics").text, "folio_generation_tokens_total") == 2000)
            app.state.registry.end("over")
            assert b'"engine_stopped"' in b"".join(received)
        assert whole.result().status_code == 503
    stream_line, whole_line = sorted(lines(2), key=lambda line: int(line["status"]))
    assert [line["finish_reasons"] for line in (stream_line, whole_line)] == ["error", "error"]
    assert 1 <= stream_line["sent_characters"] < 500
    assert whole_line["sent_characters"] == 0


def test_a_requests_id_comes_back_and_is_in_its_lines(client: httpx.Client, lines: Lines) -> None:
    body = {"start_string": "a", "num_generate": 1}
    for given in ("mine-7", "a" * 128):
        assert client.post("/generate", json=body, headers={"X-Request-Id": given}).headers["x-request-id"] == given
    for bad in ("two words", "a" * 129, "{é}"):
        drawn = client.post("/generate", json=body, headers=[(b"X-Request-Id", bad.encode())]).headers["x-request-id"]
        assert len(drawn) == 32, "an id that could break a log is not taken over"
    assert client.get("/no-such-path").headers["x-request-id"]
    told = lines(6)
    assert [line["request_id"] for line in told][:2] == ["mine-7", "a" * 128]
    assert told[-1]["status"] == 404


def test_probes_and_scrapes_are_not_logged(client: httpx.Client, lines: Lines) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/", "/web/app.js"):
        assert client.get(path).status_code == 200
    client.get("/models")
    assert [line["path"] for line in lines(1)] == ["/models"]


def test_a_key_is_told_by_a_part_of_its_digest_only(tmp_path: Path, publish: Publish, lines: Lines) -> None:
    publish()
    with serving(Settings.model_validate({"models_dir": tmp_path, "api_keys": KEY})) as (_, client):
        client.get("/models", headers={"X-API-Key": KEY})
        client.get("/models", headers={"X-API-Key": KEY + "x"})
        good, bad = lines(2)
    assert (good["status"], bad["status"]) == (200, 401)
    assert len(good["key"]) == 8
    assert "key" not in bad
    assert KEY not in json.dumps([good, bad])


def test_what_fails_is_answered_500_and_logged_with_its_trace(
    client: httpx.Client, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Registry, "models", property(fail))
    response = client.get("/models")
    failed, line = lines(2)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "out of luck" not in response.text
    assert response.headers["x-request-id"] == failed["request_id"] == line["request_id"]
    assert "RuntimeError: out of luck" in failed["exc_info"]
    assert line["status"] == 500


def test_a_path_cannot_forge_a_line(client: httpx.Client, lines: Lines) -> None:
    client.get("/no%0AINFO:     GET /models 200")
    (line,) = lines(1)
    assert "\n" not in line["message"]
    assert line["status"] == 404


def test_on_a_terminal_lines_are_plain_with_the_requests_id_and_its_start_strings() -> None:
    written = StringIO()
    handler = logs.plain_handler(written)
    record = {"levelname": "INFO", "msg": "hello, %s", "args": ("you",)}
    handler.handle(logging.makeLogRecord(record))
    mine = correlation_id.set("mine-7")
    handler.handle(logging.makeLogRecord(record | {"prompts": ["To be", "a\n\x1b[2J"]}))
    correlation_id.reset(mine)
    assert written.getvalue().splitlines() == [
        "INFO:     hello, you", r"INFO:     [mine-7] hello, you 'To be' 'a\n\x1b[2J'"
    ]  # fmt: skip


def test_an_id_that_is_not_taken_over_is_nothing_to_warn_of(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("asgi_correlation_id")
    logs.configure("json")
    try:
        client.get("/models", headers={"X-Request-Id": "two words"})
        assert [record.name for record in caplog.records if record.name == logger.name] == []
    finally:
        logger.setLevel(logging.NOTSET)
