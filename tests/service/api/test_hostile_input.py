"""The answer to any input conforms to the OpenAPI document, and the server survives."""

import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi.exceptions import RequestValidationError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.api.anthropic.requests import MessageRequest
from service.api.ollama.requests import OllamaChatRequest
from service.api.openai.requests import ChatRequest, CompletionRequest
from service.api.openai.responses.request import ResponsesRequest
from service.api.tokenizer import DetokenizeRequest
from service.app import create_app
from service.settings import Settings
from tests.support import Publish, serving

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


DOCUMENT = create_app(Settings()).openapi()
OPERATIONS = [(path, method) for path, operations in DOCUMENT["paths"].items() for method in operations]


# Not by `schema.parametrize`: it gives all operations one id, of which pytest-xdist runs only the first.
@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_operation_answers_as_its_document_says(client: httpx.Client, path: str, method: str) -> None:
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method]
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode])

    @settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=QUIET)
    @given(case=cases)
    def check(case: Any) -> None:
        if isinstance(case.body, dict):
            shorten(case.body)
        shorten(case.query)
        # Longer addresses are refused by the HTTP server: no operation sees them.
        case.query.update({name: value[:1000] for name, value in case.query.items() if isinstance(value, str)})
        case.call_and_validate(base_url=str(client.base_url), checks=CHECKS, timeout=60)

    check()


def shorten(fields: dict[str, Any]) -> None:
    """What is fuzzed is the interface, not how long a generation takes."""
    for name in ("num_generate", "max_tokens", "max_completion_tokens", "num_predict"):
        value = fields.get(name)
        if isinstance(value, int | float) and value > 50:
            fields[name] = type(value)(50)
        elif isinstance(value, str) and value.isdecimal():
            fields[name] = str(min(int(value), 50))
    fields.pop("pace", None)
    if isinstance(options := fields.get("options"), dict):
        if options.get("num_predict") in (-1, -2):  # as many as the server allows
            del options["num_predict"]
        shorten(options)


TEXT = st.one_of(
    st.text(),
    st.text(st.characters(codec=None), max_size=50),  # lone surrogates too
    st.sampled_from(["\0", "\u2028", "\u202e\u05d0\u05d1", "👩‍👩‍👧", "\ud800", "a" * 1_000_000, "\r\n\n", "data: x\n\n"]),
)
NUMBER = st.one_of(st.floats(), st.integers(), st.just(10**400), st.none(), st.booleans(), st.text(max_size=3))
FIELDS = {
    "start_string": TEXT,
    "state": TEXT,
    "temperature": NUMBER,
    "top_k": NUMBER,
    "top_p": NUMBER,
    "min_p": NUMBER,
    "allowed_characters": TEXT,
    "stop": st.one_of(TEXT, st.lists(TEXT, max_size=3)),
    "seed": NUMBER,
    "logprobs": NUMBER,
    "max_time_ms": NUMBER,
    "on_unknown": st.sampled_from(["error", "skip", "replace", "x"]),
    "echo": st.booleans(),
    "return_state": st.booleans(),
}


@pytest.mark.slow
@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=QUIET)
@given(
    body=st.fixed_dictionaries({"start_string": TEXT}, optional={name: v for name, v in FIELDS.items() if name != "start_string"})
)
def test_any_fields_are_served_or_refused_with_the_field_named(client: httpx.Client, body: dict[str, Any]) -> None:
    content = json.dumps({"num_generate": 20, **body}).encode()
    response = client.post("/generate", content=content, headers={"Content-Type": "application/json"})
    if response.status_code == 200:
        answer = response.json()
        assert answer["usage"]["generated_characters"] <= 20
    else:
        assert response.status_code in (413, 422), response.text
        found = response.json()["error"]
        assert found.keys() == {"code", "message", "type", "param"}
        assert found["code"] == "body_too_long" or found["param"].partition(".")[0] in body, found


ZEROS = [0] * 1000
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": ZEROS}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChatRequest, {"messages": [{"role": "user", "content": ZEROS}]}),
        (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": ZEROS}]}),
        (ChatRequest, {"messages": [], "tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED}}),
        (ResponsesRequest, {"input": [{"role": "user", "content": ZEROS}]}),
        (ResponsesRequest, {"input": [{"type": "function_call_output", "call_id": "a", "output": ZEROS}]}),
        (ResponsesRequest, {"input": "a", "tool_choice": ALLOWED}),
        (MessageRequest, {"max_tokens": 1, "messages": [{"role": "user", "content": ZEROS}]}),
        (MessageRequest, {"max_tokens": 1, "messages": [], "system": ZEROS}),
        (OllamaChatRequest, {"messages": [{"role": "assistant", "tool_calls": ZEROS}]}),
        (CompletionRequest, {"prompt": [0.5] * 1000}),
        (CompletionRequest, {"prompt": [ZEROS, [0.5] * 1000]}),
        (DetokenizeRequest, {"tokens": [0.5] * 1000}),
    ],
)
def test_a_list_of_invalid_parts_has_one_error(kind: type[BaseModel], body: dict[str, Any]) -> None:
    """An error for each would take seconds and gigabytes: a body may have a million parts."""
    with pytest.raises(ValidationError) as raised:
        kind.model_validate(body)
    assert raised.value.error_count() <= 3


def test_a_number_that_is_too_large_is_no_json(client: httpx.Client) -> None:
    """It would be Infinity where an answer repeats the field."""
    content = b'{"input": "a", "max_output_tokens": 1, "metadata": {"a": 1e999}}'
    response = client.post("/v1/responses", content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("streamed", [False, True])
def test_half_of_a_surrogate_pair_in_a_schema_is_no_fault_of_the_server(client: httpx.Client, streamed: bool) -> None:
    schema = rb'{"type": "object", "properties": {"a\ud800": {}}}'
    content = b'{"start_string": "a", "stream": %s, "json_schema": %s}' % (json.dumps(streamed).encode(), schema)
    response = client.post("/generate", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 422), response.text


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions", "/score", "/vectorize"])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_a_wrong_content_type_is_refused(client: httpx.Client, path: str, kind: str) -> None:
    response = client.post(path, content=b'{"start_string": "a"}', headers={"Content-Type": kind} if kind else {})
    assert response.status_code == (400 if path.startswith("/v1/") else 422)
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert "Content-Type: application/json" in response.json()["error"]["message"]


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/absent"])
def test_a_huge_body_is_cut_off_with_413(client: httpx.Client, declared: bool, path: str) -> None:
    """The server must answer before all has been sent: what is sent here has no end."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=60) as connection:
        length = "Content-Length: 1000000000000" if declared else "Transfer-Encoding: chunked"
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}\r\n\r\n".encode()
        )
        block = b" " * 65536
        try:
            for _ in range(100_000):
                connection.sendall(block if declared else b"10000\r\n" + block + b"\r\n")
        except TimeoutError:
            pytest.fail("the server neither reads nor closes")
        except OSError:
            return  # the server has closed: it reads no more
    pytest.fail("the server went on reading")


def test_a_body_of_one_byte_more_than_the_limit_is_413_in_the_one_shape(client: httpx.Client) -> None:
    for size, code in ((2_000_000, "too_long"), (2_000_001, "body_too_long")):
        body = b'{"start_string": "' + b"a" * (size - 20) + b'"}'
        assert len(body) == size
        assert client.post("/generate", content=body, headers={"Content-Type": "application/json"}).json()["error"]["code"] == code


MANY = {f"field{i}": 0 for i in range(100_000)}
MESSAGE = {"role": "user", "content": "a"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"start_string": "a", **MANY}),
        ("/score", {"text": "a", **MANY}),
        ("/vectorize", {"text": "a", **MANY}),
        ("/v1/completions", {"prompt": "a", **MANY}),
        ("/v1/completions", {"prompt": "a", "metadata": MANY}),
        ("/v1/chat/completions", {"messages": [MESSAGE], **MANY}),
        ("/v1/chat/completions", {"messages": [MESSAGE, MESSAGE | MANY]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", **MANY}]}]}),
        ("/v1/chat/completions", {"messages": [MESSAGE, {}], "tools": [{}] * 100_000}),
    ],
)
def test_no_body_makes_an_error_of_each_of_its_many_fields(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    found: list[int] = []

    def errors(self: RequestValidationError) -> Any:
        found.append(len(made(self)))
        return made(self)

    made = RequestValidationError.errors
    monkeypatch.setattr(RequestValidationError, "errors", errors)
    response = client.post(path, json=body)
    assert response.status_code == (400 if path.startswith("/v1/") else 422)
    assert set(found) == {1}
    assert "more than" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("application/json, text/event-stream;q=0", False), ("text/event-stream ; Q=0.000, */*", False), ("*/*", False),
        ("x-text/event-stream", False), ("text/event-stream;q=0.5, */*", False), ("Text/Event-Stream", True),
        ("application/json, text/event-stream", False), ("text/event-stream, application/json", True),
        ("application/json;q=0.9, text/event-stream", True), ("*/*, text/event-stream", True), ("application/*", False),
    ],
)  # fmt: skip
def test_the_accept_header_decides_between_stream_and_json(client: httpx.Client, accept: str, streams: bool) -> None:
    response = client.post("/generate", json={"start_string": "a", "num_generate": 1}, headers={"Accept": accept})
    assert response.headers["content-type"].startswith("text/event-stream") == streams


def test_several_accept_headers_are_one_list(client: httpx.Client) -> None:
    headers = [("Accept", "application/json;q=0.1"), ("Accept", "text/event-stream")]
    response = client.post("/generate", json={"start_string": "a", "num_generate": 1}, headers=headers)
    assert response.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("stream", [True, False])
def test_the_field_stream_overrides_accept(client: httpx.Client, stream: bool) -> None:
    accept = "application/json" if stream else "text/event-stream"
    body = {"start_string": "a", "num_generate": 1, "stream": stream}
    response = client.post("/generate", json=body, headers={"Accept": accept})
    assert response.headers["content-type"].startswith("text/event-stream") == stream


@pytest.mark.parametrize("path", ["/generate", "/score", "/vectorize", "/v1/completions", "/v1/chat/completions"])
def test_a_number_of_thousands_of_digits_is_the_clients_mistake(client: httpx.Client, path: str) -> None:
    content = '{"seed": %s}' % ("9" * 5000)
    response = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400 if path.startswith("/v1") else 422, "invalid_json")


@pytest.mark.parametrize("body", [{"x" * 1_000_000: 1}, {"model": "x" * 1_000_000}, {"start_string": "\u0416" * 5000}])
def test_an_error_quotes_a_part_of_what_was_sent(client: httpx.Client, body: dict[str, Any]) -> None:
    response = client.post("/generate", json={"start_string": "a", "num_generate": 1} | body)
    assert response.status_code in (404, 422)
    assert len(response.content) < 10_000


def test_what_is_nested_too_deeply_is_refused(client: httpx.Client) -> None:
    def nested(depth: int) -> dict[str, Any]:
        inner: dict[str, Any] = {"type": "integer"}
        for _ in range(depth):
            inner = {"allOf": [inner]}
        return inner

    bodies: dict[str, dict[str, Any]] = {
        "/generate": {"start_string": "a", "json_schema": nested(100), "num_generate": 50},
        "/v1/responses": {"input": "a", "metadata": nested(100), "max_output_tokens": 1},
    }
    for path, body in bodies.items():
        for stream in (True, False):
            response = client.post(path, json=body | {"stream": stream})
            assert response.status_code == (400 if path.startswith("/v1/") else 422)
            assert "nested more than 200 levels deep" in response.json()["error"]["message"]
    assert client.post("/v1/responses", json=bodies["/v1/responses"] | {"metadata": nested(90)}).status_code == 200


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_pythons_json_alone_reads_is_refused(client: httpx.Client, number: str) -> None:
    content = f'{{"input": "a", "max_output_tokens": 1, "metadata": {{"a": {number}}}}}'
    response = client.post("/v1/responses", content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 8, "max_tokens": 10**4299}, "max_tokens"),
        ({"n": 10**4299}, "n"),
        ({"messages": [{"role": "user", "content": "a", "my-field": 1}]}, "messages.0.my-field"),
        ({"functions": [{"name": "f"}], "function_call": {"nam": "f"}}, "function_call.name"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0"),
    ],
)
def test_the_field_that_is_wrong_is_named(client: httpx.Client, body: dict[str, Any], param: str) -> None:
    response = client.post("/v1/chat/completions", json={"messages": [MESSAGE]} | body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_many_answers_without_a_length_are_short_enough_together(tmp_path: Path, publish: Publish) -> None:
    publish("tiny")
    with serving(Settings(models_dir=tmp_path, max_num_generate=50)) as (_, peer):
        answer = peer.post("/v1/chat/completions", json={"messages": [MESSAGE], "n": 4, "ignore_eos": True}).json()
    assert [len(choice["message"]["content"]) for choice in answer["choices"]] == [12] * 4


def test_a_penalty_that_no_float32_holds_is_refused(client: httpx.Client) -> None:
    response = client.post("/generate", json={"start_string": "a", "num_generate": 3, "repetition_penalty": 1e-39})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "repetition_penalty")
    smallest = {"repetition_penalty": 0.01, "frequency_penalty": -2, "presence_penalty": -2, "temperature": 1e300}
    assert client.post("/generate", json={"start_string": "a", "num_generate": 300} | smallest).status_code == 200
