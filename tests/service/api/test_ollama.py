"""Ollama's operations, as their documentation describes what is sent and received. tests/clients has the official client."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from service.api.ollama.answer import Answer
from service.settings import Settings
from tests.support import ENDLESS, Gate, publish, serving, wait_until

ASKED: Any = [{"role": "user", "content": "Who art thou?"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"]}
TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "description": "The forecast", "parameters": WEATHER}}]
OPTIONS: Any = {"seed": 6, "num_predict": 40}
KEY = "correct-horse-battery"


def chat(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": ASKED, "options": OPTIONS, "stream": False, **fields}
    response = client.post("/api/chat", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    found: dict[str, Any] = response.json()
    return found


def generated(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": "Who art thou?", "options": OPTIONS, "stream": False, **fields}
    response = client.post("/api/generate", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def lines(client: httpx.Client, path: str = "/api/chat", **fields: Any) -> list[dict[str, Any]]:
    """A stream, read line by line as Ollama's clients do. They split at every line end of Unicode."""
    asked = {"messages": ASKED} if path.endswith("chat") else {"prompt": "Who art thou?"}
    with client.stream("POST", path, json={"model": "tiny", "options": OPTIONS, **asked, **fields}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in response.iter_lines()]


def openais(client: httpx.Client, messages: Any, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": messages, "max_tokens": 40, "seed": 6, **fields}
    found: dict[str, Any] = client.post("/v1/chat/completions", json=body).json()
    return found


def test_a_chat_is_what_openais_chat_gives(client: httpx.Client) -> None:
    """The same text for the same messages, seed and options."""
    conversation: Any = [{"role": "system", "content": "A room."}, *ASKED, {"role": "assistant", "content": "Nay!"},
                         {"role": "user", "content": "Speak."}]  # fmt: skip
    options = {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "presence_penalty": 0.5, "frequency_penalty": 0.1}
    found = chat(
        client, messages=conversation, options={**OPTIONS, **options, "repeat_penalty": 1.1, "num_ctx": 2048, "mirostat": 0}
    )
    expected = openais(client, conversation, **options, repetition_penalty=1.1)
    assert found["message"] == {"role": "assistant", "content": expected["choices"][0]["message"]["content"]}
    assert (found["model"], found["done"], found["done_reason"]) == ("tiny", True, "length")
    assert (found["prompt_eval_count"], found["eval_count"]) == (expected["usage"]["prompt_tokens"], 40)
    datetime.fromisoformat(found["created_at"])
    durations = [found[f"{name}_duration"] for name in ("load", "prompt_eval", "eval")]
    assert all(isinstance(duration, int) and duration > 0 for duration in durations)
    assert found["total_duration"] >= sum(durations)


def test_a_prompt_is_a_users_message_unless_it_is_raw(client: httpx.Client) -> None:
    expected = openais(client, [{"role": "system", "content": "A room."}, *ASKED])["choices"][0]["message"]["content"]
    assert generated(client, system="A room.")["response"] == expected
    native = {"model": "tiny", "start_string": "Hark! ", "num_generate": 40, "seed": 6, "echo": False}
    assert generated(client, prompt="Hark! ", raw=True)["response"] == client.post("/generate", json=native).json()["text"]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_stream_is_the_default_and_adds_up(client: httpx.Client, path: str) -> None:
    options = {**OPTIONS, "num_predict": 300, "pace": 3000, "allowed_characters": "ab\u2028é🎭"}
    *parts, last = lines(client, path, options=options)
    whole = (chat if path.endswith("chat") else generated)(client, options=options)

    def text(part: dict[str, Any]) -> str:
        return str(part["message"]["content"] if path.endswith("chat") else part["response"])

    assert len(parts) > 1
    assert "\u2028" in text(whole)
    assert "".join(map(text, [*parts, last])) == text(whole)
    assert not any(part["done"] or "done_reason" in part for part in parts)
    assert text(last) == ""
    counts = ("done", "done_reason", "eval_count", "prompt_eval_count")
    assert [last[name] for name in counts] == [whole[name] for name in counts] == [True, "length", 300, whole["prompt_eval_count"]]


def test_stop_strings_end_an_answer(client: httpx.Client) -> None:
    text = chat(client)["message"]["content"]
    found = chat(client, options={**OPTIONS, "stop": [text[20:24]]})
    assert (found["message"]["content"], found["done_reason"]) == (text[: text.index(text[20:24])], "stop")


def test_how_much_is_generated(client: httpx.Client, tmp_path: Path) -> None:
    for predicted in (0, None):
        options = {"seed": 6, "allowed_characters": "ab", "num_predict": predicted}
        assert chat(client, options=options)["eval_count"] == 1000
    publish(tmp_path)
    with serving(Settings(models_dir=tmp_path, max_num_generate=1234)) as (_, limited):
        for predicted in (-1, -2):
            options = {"seed": 6, "allowed_characters": "ab", "num_predict": predicted}
            assert chat(limited, options=options)["eval_count"] == 1234


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_loop_calls_then_ends_with_a_text(client: httpx.Client, stream: bool) -> None:
    def answered(messages: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """(The message, the end of the answer)."""
        body = {"model": "tiny", "messages": messages, "tools": TOOLS, "options": {"seed": 6, "num_predict": 100}, "stream": stream}
        response = client.post("/api/chat", json=body, headers={"X-Folio-Tools": "call"})
        *parts, last = map(json.loads, response.text.splitlines())
        return (parts or [last])[0]["message"], last

    message, last = answered(ASKED)
    (call,) = message["tool_calls"]
    assert (message["content"], last["done_reason"], call["function"]["name"]) == ("", "stop", "get_weather")
    jsonschema.validate(call["function"]["arguments"], WEATHER)
    assert answered(ASKED)[0] == message, "the same seed gives the same call with the same id"
    history: Any = [*ASKED, message, {"role": "tool", "tool_name": "get_weather", "content": "Rain."}]
    text, last = answered(history)
    assert "tool_calls" not in text
    assert text["content"]


def test_a_call_is_that_of_openais_chat_and_so_is_its_history(client: httpx.Client) -> None:
    fields: Any = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 100}
    choice = openais(client, ASKED, **fields)["choices"][0]["message"]
    headers = {"X-Folio-Tools": "call"}
    body = {"model": "tiny", "messages": ASKED, "tools": TOOLS, "options": {"seed": 6, "num_predict": 100}, "stream": False}
    message = client.post("/api/chat", json=body, headers=headers).json()["message"]
    (called,), (made,) = choice["tool_calls"], message["tool_calls"]
    assert (made["id"], made["function"]["arguments"]) == (called["id"], json.loads(called["function"]["arguments"]))
    result: Any = {"role": "tool", "content": "Rain."}
    expected = openais(client, [*ASKED, choice, result | {"tool_call_id": "t"}], tools=TOOLS)
    assert (
        chat(client, messages=[*ASKED, message, result], tools=TOOLS)["message"]["content"]
        == (expected["choices"][0]["message"]["content"])
    )


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_json(client: httpx.Client, stream: bool) -> None:
    def text(**fields: Any) -> str:
        options = {"seed": 6, "num_predict": 100}
        if stream:
            return "".join(part["message"]["content"] for part in lines(client, options=options, **fields))
        return str(chat(client, options=options, **fields)["message"]["content"])

    jsonschema.validate(json.loads(text(format=WEATHER)), WEATHER)
    assert isinstance(json.loads(text(format="json")), dict)
    assert text(format="") == text()


def test_log_probabilities_are_those_of_openais_chat(client: httpx.Client) -> None:
    found = chat(client, logprobs=True, top_logprobs=2)
    expected = openais(client, ASKED, logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert found["logprobs"] == expected
    parts = lines(client, logprobs=True, top_logprobs=2)
    assert [one for part in parts for one in part.get("logprobs", [])] == expected
    client.headers["X-Folio-Tools"] = "call"
    try:
        calls = {"tools": TOOLS, "logprobs": True, "options": {"seed": 6, "num_predict": 300}}
        whole, parts = chat(client, **calls), lines(client, **calls)
    finally:
        del client.headers["X-Folio-Tools"]
    assert len(whole["logprobs"]) == whole["eval_count"] > 20
    assert [one for part in parts for one in part.get("logprobs", [])] == whole["logprobs"]


def test_a_request_without_a_text_says_that_the_model_is_loaded(client: httpx.Client) -> None:
    for found in (chat(client, messages=[], stream=True), generated(client, prompt="", keep_alive=-1)):
        assert (found["model"], found["done"], found["done_reason"]) == ("tiny", True, "load")
    assert client.post("/api/generate", json={"model": "absent"}).status_code == 404


def test_a_call_that_is_held_back_counts_as_sent(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    body = {"model": "tiny", "messages": ASKED, "tools": TOOLS, "options": {"seed": 6, "num_predict": 100, "pace": 1000}}
    client.get("/healthz")  # is answered after the line of the request before is written
    with caplog.at_level("INFO", logger="service.middleware.request_log"):
        client.post("/api/chat", json=body, headers={"X-Folio-Tools": "call"})
        wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.__dict__["sent_characters"] == record.__dict__["generated_characters"] > 0


def test_models_are_listed_and_shown(client: httpx.Client) -> None:
    tags, loaded = client.get("/api/tags").json()["models"], client.get("/api/ps").json()["models"]
    assert [model["name"] for model in tags] == [model["name"] for model in loaded] == ["other:latest", "tiny:latest"]
    assert {model["digest"] for model in tags} == {model["digest"] for model in loaded}
    assert len({model["digest"] for model in tags}) == 2
    for body in ({"model": "tiny"}, {"name": "tiny:latest"}):
        shown = client.post("/api/show", json=body).json()
        assert shown["model_info"]["general.architecture"] == "gru"
        assert shown["model_info"]["gru.context_length"] == 10_000
        assert "tools" in shown["capabilities"]
    assert chat(client, model="other:latest")["message"] == chat(client, model="other")["message"]
    assert chat(client, model="other")["message"] != chat(client)["message"]
    assert client.get("/api/version").json()["version"]
    assert client.head("/").status_code == 200, "how some clients check that the server is there"


def test_embeddings_are_those_of_openais_operation(client: httpx.Client) -> None:
    data = client.post("/v1/embeddings", json={"model": "tiny", "input": ["Hark", "Who"]}).json()
    expected = [one["embedding"] for one in data["data"]]
    found = client.post("/api/embed", json={"model": "tiny", "input": ["Hark", "Who"], "truncate": True}).json()
    assert (found["embeddings"], found["prompt_eval_count"]) == (expected, 7)
    assert found["total_duration"] >= found["load_duration"] > 0
    assert client.post("/api/embed", json={"model": "tiny", "input": "Hark"}).json()["embeddings"] == expected[:1]
    assert client.post("/api/embeddings", json={"model": "tiny", "prompt": "Who"}).json() == {"embedding": expected[1]}
    short = client.post("/api/embed", json={"model": "tiny", "input": "Hark", "dimensions": 2}).json()["embeddings"][0]
    assert len(short) == 2


def test_a_text_to_embed_that_is_too_long_is_cut_unless_that_is_switched_off(client: httpx.Client) -> None:
    kept, whole = "a" * 10_000, "a" * 10_000 + "b"
    expected = client.post("/api/embed", json={"model": "tiny", "input": kept}).json()["embeddings"]
    for truncate in ({}, {"truncate": True}):
        assert client.post("/api/embed", json={"model": "tiny", "input": whole, **truncate}).json()["embeddings"] == expected
    old = client.post("/api/embeddings", json={"model": "tiny", "prompt": whole}).json()
    assert [old["embedding"]] == expected
    assert client.post("/api/embed", json={"model": "tiny", "input": whole, "truncate": False}).status_code == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_needs_no_content_type_but_from_a_web_page(client: httpx.Client, kind: str) -> None:
    content = json.dumps({"model": "tiny", "prompt": "a", "options": OPTIONS, "stream": False}).encode()
    headers = {"Content-Type": kind} if kind else {}
    assert client.post("/api/generate", content=content, headers=headers).status_code == 200
    refused = client.post("/api/generate", content=content, headers={**headers, "Origin": "https://evil.example"})
    assert refused.status_code == 400
    assert "Content-Type: application/json" in refused.json()["error"]


def error(response: httpx.Response) -> str:
    """The message of an error in Ollama's format."""
    body = response.json()
    assert body.keys() == {"error"}
    return str(body["error"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "names"),
    [
        ("chat", {"options": {"temperature": -1}}, "options.temperature"),
        ("chat", {"options": {"num_predict": 10**10}}, "options.num_predict"),
        ("chat", {"options": {"num_predict": -3}}, "options.num_predict"),
        ("chat", {"logprobs": True, "top_logprobs": 20, "options": {"num_predict": 50_000}}, "logprobs"),
        ("chat", {"options": {"mirostat": 1}}, "options.mirostat"),
        ("chat", {"options": {"repeat_penalty": 5}}, "options.repeat_penalty"),
        ("chat", {"messages": [{"role": "user", "content": "a", "images": ["aa"]}]}, "messages.0.images"),
        ("chat", {"messages": [{"role": "nobody", "content": "a"}]}, "messages.0.role"),
        ("chat", {"messages": [{"role": "user", "content": "12"}], "options": {"on_unknown": "error"}}, "messages"),
        ("chat", {"format": "xml"}, "format"),
        ("chat", {"format": {"type": "nothing"}}, "format"),
        ("chat", {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ("chat", {"massages": []}, "massages"),
        ("generate", {"suffix": "b"}, "suffix"),
        ("generate", {"template": "b"}, "template"),
        ("generate", {"context": [1]}, "context"),
        ("generate", {"images": ["aa"]}, "images"),
        ("generate", {"raw": True, "system": "A room."}, "system"),
        ("generate", {"prompt": "a" * 10_001}, "prompt"),
    ],
)
def test_an_invalid_field_is_named(client: httpx.Client, path: str, fields: dict[str, Any], names: str, stream: bool) -> None:
    asked = {"messages": ASKED} if path == "chat" else {"prompt": "a"}
    response = client.post(f"/api/{path}", json={"model": "tiny", "stream": stream, **asked, **fields})
    assert response.status_code == 400
    assert names in error(response)


def test_other_errors_have_the_same_format(client: httpx.Client, engine: Any) -> None:
    absent = client.post("/api/chat", json={"model": "absent", "messages": ASKED})
    assert (absent.status_code, "absent" in error(absent)) == (404, True)
    for method, name in (("POST", "pull"), ("POST", "push"), ("POST", "create"), ("POST", "copy"), ("DELETE", "delete")):
        refused = client.request(method, f"/api/{name}", json={"model": "tiny"})
        assert refused.status_code == 400
        assert f"/api/{name}" in error(refused)
    assert "/api/nothing" in error(client.get("/api/nothing"))
    assert client.get("/api/chat").status_code == 405
    body = {"model": "tiny", "prompt": "a", "max_tokens": ENDLESS["num_generate"] // 12, "n": 12, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as stream:  # 4 slots, 8 places in the queue
        assert stream.status_code == 200
        wait_until(lambda: (engine.running, engine.waiting) == (4, 8))
        full = client.post("/api/chat", json={"model": "tiny", "messages": ASKED})
        assert (full.status_code, "queue" in error(full)) == (429, True)
        assert int(full.headers["retry-after"]) > 0
    wait_until(lambda: (engine.running, engine.waiting) == (0, 0))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server whose middlewares refuse much."""
    models = tmp_path_factory.mktemp("models")
    publish(models)
    settings = {"models_dir": models, "api_keys": KEY, "rate_limit": "4/day", "max_body": 1000}
    with serving(Settings.model_validate(settings)) as (_, client):
        yield client


def test_errors_of_middlewares_have_the_same_format(guarded: httpx.Client) -> None:
    def ask(key: str, content: str = "Hark") -> httpx.Response:
        body = {"messages": [{"role": "user", "content": content}], "stream": False}
        return guarded.post("/api/chat", json=body, headers={"Authorization": f"Bearer {key}"})

    assert ask(KEY).status_code == 200
    refused, long = ask("wrong"), ask(KEY, "a" * 2000)
    assert (refused.status_code, "API key" in error(refused)) == (401, True)
    assert (long.status_code, "1,000 bytes" in error(long)) == (413, True)
    many = [ask(KEY) for _ in range(4)][-1]
    assert (many.status_code, "try again in" in error(many)) == (429, True)


def test_an_error_in_mid_stream_is_a_line(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    read, made = Answer._read, iter([True])

    def failing(self: Answer, *given: Any, **fields: Any) -> dict[str, Any]:
        if next(made, None) is None:
            raise RuntimeError("a fault of the test")
        return read(self, *given, **fields)

    monkeypatch.setattr(Answer, "_read", failing)
    first, *_, last = lines(client, options={"num_predict": ENDLESS["num_generate"], "allowed_characters": "ab"})
    assert first["message"]["content"]
    assert last == {"error": "the server failed; the cause is in its log"}


def test_a_stream_with_nothing_to_say_is_kept_alive_by_parts_without_a_text(
    client: httpx.Client, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.sse.KEEP_ALIVE", 0.05)
    gate = Gate(engine.backend, monkeypatch, permits=0)
    with client.stream("POST", "/api/chat", json={"model": "tiny", "messages": ASKED, "options": OPTIONS}) as response:
        found = (json.loads(line) for line in response.iter_lines())
        first = next(found)
        gate.open()
        parts = [first, *found]
    assert (first["message"]["content"], first["done"]) == ("", False)
    assert "".join(part["message"]["content"] for part in parts) == chat(client)["message"]["content"]
    assert [part["done"] for part in parts] == [False] * (len(parts) - 1) + [True]
