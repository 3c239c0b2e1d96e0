"""Anthropic's operations, as their documentation describes what is sent and received. tests/clients has the official client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from service.api.anthropic.answer import MessageStream
from service.app import create_app
from service.settings import Settings
from tests.sse import Event, events
from tests.support import ENDLESS, publish, run_server, serving, wait_until

ASKED: Any = [{"role": "user", "content": "Who art thou?"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"]}
TOOLS: Any = [
    {"name": "get_weather", "description": "The forecast", "input_schema": WEATHER, "cache_control": {"type": "ephemeral"}},
    {"type": "custom", "name": "now", "input_schema": {"type": "object", "properties": {}}},
]
FORMAT: Any = {"type": "json_schema", "schema": WEATHER}
KEY = "correct-horse-battery"


def post(client: httpx.Client, path: str = "/v1/messages", **fields: Any) -> httpx.Response:
    defaults = {"model": "tiny", "messages": ASKED} | ({} if path.endswith("count_tokens") else {"max_tokens": 40, "seed": 6})
    return client.post(path, json=defaults | fields)


def message(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = post(client, **fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def text_of(found: dict[str, Any]) -> str:
    (block,) = found["content"]
    assert block["type"] == "text"
    return str(block["text"])


def streamed(client: httpx.Client, **fields: Any) -> list[Event]:
    body = {"model": "tiny", "max_tokens": 40, "messages": ASKED, "seed": 6, "stream": True, **fields}
    with client.stream("POST", "/v1/messages", json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["request-id"] == response.headers["x-request-id"]
        found = list(events(response.iter_bytes()))
    assert all(event.data["type"] == event.name for event in found)
    return found


def assembled(found: list[Event]) -> dict[str, Any]:
    """The message that the events add up to, as a client puts them together. Fails for events in a wrong order."""
    whole: dict[str, Any] = {}
    inputs: list[str] = []
    is_open = False
    for event in found:
        data = event.data
        match event.name:
            case "message_start":
                assert not whole
                whole = data["message"]
                assert (whole["content"], whole["stop_reason"], whole["usage"]["output_tokens"]) == ([], None, 0)
            case "content_block_start":
                assert not is_open
                assert data["index"] == len(whole["content"])
                is_open = True
                whole["content"].append(data["content_block"])
                inputs.append("")
            case "content_block_delta":
                assert is_open
                assert data["index"] == len(whole["content"]) - 1
                if data["delta"]["type"] == "text_delta":
                    whole["content"][-1]["text"] += data["delta"]["text"]
                else:
                    assert data["delta"]["type"] == "input_json_delta"
                    inputs[-1] += data["delta"]["partial_json"]
            case "content_block_stop":
                assert is_open
                assert data["index"] == len(whole["content"]) - 1
                is_open = False
                if whole["content"][-1]["type"] == "tool_use":
                    whole["content"][-1]["input"] = json.loads(inputs[-1])
            case "message_delta":
                assert not is_open
                whole |= data["delta"] | {"usage": data["usage"]}
            case name:
                assert name in ("ping", "message_stop")
    assert found[-1].name == "message_stop"
    return whole


def test_a_message_is_what_openais_chat_gives(client: httpx.Client) -> None:
    """The same text for the same messages and seed, whichever form the content has."""
    conversation: Any = [
        {"role": "user", "content": [{"type": "text", "text": "Who art "}, {"type": "text", "text": "thou?"}]},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "Hm", "signature": "x"}, {"type": "text", "text": "Nay!"}],
        },
        {"role": "user", "content": "Speak."},
    ]
    options: Any = {"max_tokens": 40, "seed": 6, "temperature": 0.8, "top_k": 9, "top_p": 0.9, "frequency_penalty": 0.1}
    found = message(client, system=[{"type": "text", "text": "A room."}], messages=conversation, **options)
    plain: Any = [{"role": "system", "content": "A room."}, {"role": "user", "content": "Who art thou?"},
                  {"role": "assistant", "content": "Nay!"}, {"role": "user", "content": "Speak."}]  # fmt: skip
    body = {"model": "tiny", "messages": plain, **options}
    choice = client.post("/v1/chat/completions", json=body).json()
    assert text_of(found) == choice["choices"][0]["message"]["content"]
    assert found["usage"] == {
        "input_tokens": choice["usage"]["prompt_tokens"],
        "output_tokens": 40,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }
    assert (found["type"], found["role"], found["model"]) == ("message", "assistant", "tiny")
    assert (found["stop_reason"], found["stop_sequence"]) == ("max_tokens", None)
    assert found["id"].startswith("msg_")


def test_a_stream_adds_up_to_the_message(client: httpx.Client) -> None:
    whole, found = message(client, max_tokens=300), streamed(client, max_tokens=300, pace=3000)
    names = [event.name for event in found]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert names.count("content_block_delta") > 1
    assert assembled(found) | {"id": ""} == whole | {"id": ""}


def test_why_a_message_ended(client: httpx.Client) -> None:
    endless = text_of(message(client, max_tokens=200))
    stop = endless[50:54]
    stopped = message(client, max_tokens=200, stop_sequences=["no such", stop])
    assert text_of(stopped) == endless[: endless.index(stop)]
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", stop)
    assert assembled(streamed(client, max_tokens=200, stop_sequences=[stop]))["stop_sequence"] == stop
    # With line breaks alone the template ends the turn at once, unless the client names the same string.
    ended = message(client, allowed_characters="\n")
    assert (text_of(ended), ended["stop_reason"], ended["stop_sequence"]) == ("", "end_turn", None)
    named = message(client, allowed_characters="\n", stop_sequences=["\n\n"])
    assert (named["stop_reason"], named["stop_sequence"]) == ("stop_sequence", "\n\n")
    assert assembled(streamed(client, allowed_characters="\n"))["content"] == [{"type": "text", "text": ""}]


def test_the_last_message_of_the_assistant_is_continued(client: httpx.Client) -> None:
    begun: Any = [*ASKED, {"role": "assistant", "content": "I am "}]
    body = {"model": "tiny", "messages": begun, "max_tokens": 40, "seed": 6}
    continued = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert text_of(message(client, messages=begun)) == continued


def test_tokens_are_counted_as_they_are_charged(client: httpx.Client) -> None:
    fields: Any = {"system": "A room.", "tools": TOOLS, "messages": [*ASKED, {"role": "assistant", "content": "2+2 is"}]}
    response = post(client, "/v1/messages/count_tokens", **fields)
    assert response.json() == {"input_tokens": message(client, **fields)["usage"]["input_tokens"]}
    assert response.headers["request-id"] == response.headers["x-request-id"]


def test_a_text_that_is_too_long_to_be_read_is_counted(client: httpx.Client) -> None:
    """Clients count a text in order to shorten it."""
    messages = [{"role": "user", "content": "a" * 12_000}]
    assert post(client, "/v1/messages/count_tokens", messages=messages).json()["input_tokens"] > 12_000
    error(post(client, messages=messages), "invalid_request_error")


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_loop_calls_then_ends_with_a_text(client: httpx.Client, stream: bool) -> None:
    def answered(messages: Any) -> dict[str, Any]:
        fields: Any = {"messages": messages, "tools": TOOLS, "max_tokens": 100}
        headers = {"X-Folio-Tools": "call get_weather"}
        body = {"model": "tiny", "seed": 6, "stream": stream, **fields}
        response = client.post("/v1/messages", json=body, headers=headers)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = assembled(list(events([response.content]))) if stream else response.json()
        return found

    first = answered(ASKED)
    (call,) = first["content"]
    assert (first["stop_reason"], call["type"], call["name"]) == ("tool_use", "tool_use", "get_weather")
    assert call["id"].startswith("toolu_")
    jsonschema.validate(call["input"], WEATHER)
    assert answered(ASKED)["content"] == first["content"], "the same seed gives the same call with the same id"
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "Rain."}]}
    history: Any = [*ASKED, {"role": "assistant", "content": [call]}]
    for content in ([result], [result, {"type": "text", "text": "Well?"}]):
        last = answered([*history, {"role": "user", "content": content}])
        assert [block["type"] for block in last["content"]] == ["text"]
        assert last["stop_reason"] in ("end_turn", "max_tokens")


@pytest.mark.slow
def test_the_choice_of_tools(client: httpx.Client) -> None:
    def names(choice: Any, **fields: Any) -> list[str]:
        content = message(client, tools=TOOLS, tool_choice=choice, max_tokens=300, **fields)["content"]
        return [block.get("name", "") for block in content]

    assert {tuple(names({"type": "any"}, seed=seed)) for seed in range(20)} == {("get_weather",), ("now",)}
    assert names({"type": "tool", "name": "now"}) == ["now"]
    assert names({"type": "auto"}) == names({"type": "none"}) == [""]
    several = {"type": "any", "disable_parallel_tool_use": False}
    assert {len(names(several, seed=seed)) for seed in range(20)} == {1, 2, 3}
    fields: Any = {"tools": TOOLS, "tool_choice": several, "max_tokens": 300, "seed": 3}
    assert assembled(streamed(client, **fields))["content"] == message(client, **fields)["content"]


def test_a_stop_sequence_does_not_cut_a_call(client: httpx.Client) -> None:
    fields: Any = {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "get_weather"}, "stop_sequences": ['"', "e", "a", " "]}
    found = message(client, max_tokens=100, **fields)
    jsonschema.validate(found["content"][0]["input"], WEATHER)
    assert found["stop_reason"] == "tool_use"


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_an_answer_is_json_under_a_schema(client: httpx.Client, name: str) -> None:
    fields: Any = {name: {"format": FORMAT, "effort": "low"} if name == "output_config" else FORMAT, "max_tokens": 100}
    found = message(client, **fields)
    jsonschema.validate(json.loads(text_of(found)), WEATHER)
    assert found["stop_reason"] == "end_turn"
    assert text_of(assembled(streamed(client, **fields))) == text_of(found)


def test_what_clients_send_besides_changes_nothing(client: httpx.Client) -> None:
    extra: Any = {"metadata": {"user_id": "u"}, "service_tier": "auto", "thinking": {"type": "enabled", "budget_tokens": 1024},
                  "cache_control": {"type": "ephemeral"}, "container": None, "mcp_servers": []}  # fmt: skip
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "any"}
    body = {"model": "tiny", "max_tokens": 40, "messages": ASKED, "seed": 6, **extra}
    found = client.post("/v1/messages?beta=true", json=body, headers=headers).json()
    assert found["content"] == message(client)["content"]


def error(response: httpx.Response, kind: str) -> str:
    """The message of an error in Anthropic's format."""
    body = response.json()
    assert body.keys() == {"type", "error", "request_id"}
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["error"].keys() == {"type", "message"}
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    return str(body["error"]["message"])


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aa"}}


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**10}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"system": "a" * 10_001}, "prompt is too long: "),
        ({"temperature": -1}, "temperature"),
        ({"temprature": 1}, "temprature"),
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, "messages.0.content: blocks of type image"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [PICTURE]}]}]},
            "messages.0.content.0.content: blocks of type image",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"system": [PICTURE]}, "system: blocks of type image"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools: two of them"),
        ({"tools": [{"name": "x", "input_schema": {"type": "nothing"}}], "tool_choice": {"type": "any"}}, "tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "absent"}}, "absent"),
        ({"container": "c"}, "container"),
        ({"output_format": FORMAT, "output_config": {"format": FORMAT}}, "output_format"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "nothing"}}}}, "output_config"),
        ({"messages": [{"role": "user", "content": "12"}], "on_unknown": "error"}, "messages"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_an_invalid_field_is_named(client: httpx.Client, fields: dict[str, Any], names: str, stream: bool) -> None:
    response = post(client, stream=stream, **fields)
    assert response.status_code == 400
    assert names in error(response, "invalid_request_error")


def test_other_errors_have_anthropics_types(client: httpx.Client) -> None:
    absent = post(client, model="absent")
    assert (absent.status_code, "absent" in error(absent, "not_found_error")) == (404, True)
    wrong = client.get("/v1/messages")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    error(wrong, "invalid_request_error")
    assert client.post("/v1/messages", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    batches = client.post("/v1/messages/batches", json={})
    assert batches.status_code >= 400
    assert "/v1/messages/batches" in batches.json()["error"]["message"]
    threaded = post(client, thread={"type": "create"})
    assert (threaded.status_code, threaded.json()["error"]["details"]) == (400, {"error_code": "thread_unsupported_request"})
    assert "without it" in client.post("/v1/v1/messages", json={}).json()["error"]["message"]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server whose middlewares refuse much."""
    models: Path = tmp_path_factory.mktemp("models")
    publish(models)
    settings = {"models_dir": models, "api_keys": KEY, "rate_limit": "5/day", "max_body": 1000, "allowed_hosts": "folio.example"}
    with serving(Settings.model_validate(settings)) as (_, client):
        yield client


def test_errors_of_middlewares_have_the_same_format(guarded: httpx.Client) -> None:
    mine = {"x-api-key": KEY}

    def ask(headers: dict[str, str], **fields: Any) -> httpx.Response:
        body = {"max_tokens": 5, "messages": ASKED, **fields}
        return guarded.post("/v1/messages", json=body, headers=headers)

    assert ask(mine).status_code == 200
    for headers in ({}, {"x-api-key": "wrong"}):
        refused = ask(headers)
        assert refused.status_code == 401
        assert "API key" in error(refused, "authentication_error")
    foreign = ask(mine | {"Host": "evil.example"})
    assert foreign.status_code == 421
    assert "evil.example" in error(foreign, "invalid_request_error")
    long = ask(mine, system="a" * 2000)
    assert long.status_code == 413
    assert "1,000 bytes" in error(long, "request_too_large")
    encoded = guarded.post("/v1/messages", content=b"x", headers=mine | {"Content-Encoding": "br"})
    assert encoded.status_code == 415
    error(encoded, "invalid_request_error")
    many = [ask(mine) for _ in range(5)][-1]
    assert many.status_code == 429
    assert "try again in" in error(many, "rate_limit_error")
    assert int(many.headers["retry-after"]) > 0


def test_a_full_queue_and_a_server_that_is_not_ready(client: httpx.Client, engine: Any, tmp_path: Path) -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": ENDLESS["num_generate"] // 12, "n": 12, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as stream:  # 4 slots, 8 places in the queue
        assert stream.status_code == 200
        wait_until(lambda: (engine.running, engine.waiting) == (4, 8))
        full = post(client)
        assert full.status_code == 429
        error(full, "rate_limit_error")
    wait_until(lambda: (engine.running, engine.waiting) == (0, 0))
    with run_server(create_app(Settings(models_dir=tmp_path))) as address, httpx.Client(base_url=address, timeout=60) as empty:
        absent = post(empty)
        assert absent.status_code == 503
        error(absent, "overloaded_error")


def test_an_error_in_mid_stream_is_an_event(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    delta, made = MessageStream._delta, iter([True])

    def failing(self: MessageStream, **given: str) -> bytes:
        if next(made, None) is None:
            raise RuntimeError("a fault of the test")
        return delta(self, **given)

    monkeypatch.setattr(MessageStream, "_delta", failing)
    found = streamed(client, max_tokens=ENDLESS["num_generate"], allowed_characters="ab")
    assert found[-1].name == "error"
    assert found[-1].data["error"] == {"type": "api_error", "message": "the server failed; the cause is in its log"}
    assert "message_stop" not in [event.name for event in found]


def test_models_are_listed_as_anthropic_lists_them_for_its_clients(client: httpx.Client) -> None:
    headers = {"anthropic-version": "2023-06-01"}
    listed = client.get("/v1/models", headers=headers)
    assert listed.headers["request-id"] == listed.headers["x-request-id"]
    page = listed.json()
    assert [model["id"] for model in page["data"]] == ["other", "tiny"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("other", "tiny", False)
    found = client.get("/v1/models/tiny", headers=headers).json()
    assert found == page["data"][1]
    assert (found["type"], found["created_at"]) == ("model", "2026-01-01T00:00:00+00:00")
    error(client.get("/v1/models/absent", headers=headers), "not_found_error")
    assert client.get("/v1/models").json()["object"] == "list", "OpenAI's clients do not send the header"


def test_auto_calls_where_the_server_says_so(tmp_path: Path) -> None:
    publish(tmp_path)
    with serving(Settings(models_dir=tmp_path, auto_tools="call")) as (_, client):
        assert message(client, tools=TOOLS, max_tokens=100)["stop_reason"] == "tool_use"
