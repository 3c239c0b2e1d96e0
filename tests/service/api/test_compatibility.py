"""Requests of common clients and load tools: fields, values, methods, paths and bodies beyond the service's own."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types import completion_create_params
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionMessage,
    ChatCompletionToolMessageParam,
)
from openai.types.chat import (
    completion_create_params as chat_create_params,
)

from service.api.openai.messages import Message, TextPart
from service.api.openai.requests import ChatRequest, CompletionRequest
from service.settings import Settings
from tests.sse import events
from tests.support import ARCHITECTURE, VOCABULARY, Publish, serving, stream

USER: dict[str, Any] = {"role": "user", "content": "Hi"}
TINY: dict[str, Any] = {"model": "tiny", "max_tokens": 12, "seed": 1}


def completed(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/completions", json={"prompt": "Hark", **TINY, **fields})
    assert response.status_code == 200, response.text
    return dict(response.json())


def replied(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/chat/completions", json={"messages": [USER], **TINY, **fields})
    assert response.status_code == 200, response.text
    return dict(response.json())


def error(response: httpx.Response) -> tuple[int, str, str | None]:
    assert response.json().keys() == {"error"}, "there is one shape"
    found = response.json()["error"]
    return response.status_code, found["code"], found["param"]


# --- choices


def test_every_choice_is_a_sample_of_its_own(client: httpx.Client) -> None:
    def texts(**fields: Any) -> list[str]:
        return [choice["text"] for choice in completed(client, max_tokens=60, **fields)["choices"]]

    assert len(set(texts(prompt=["ROMEO: ", "ROMEO: "]))) == 2
    assert (
        len(set(texts(prompt="ROMEO: ", n=4) + texts(prompt="ROMEO: ", n=4, seed=2) + texts(prompt="ROMEO: ", n=4, seed=3))) == 12
    )
    assert texts(prompt=["ROMEO: ", "a"], n=2) == texts(prompt=["ROMEO: ", "a"], n=2)
    assert texts(prompt="ROMEO: ", n=3)[0] == texts(prompt="ROMEO: ")[0]


@pytest.mark.parametrize("seed", [0, 2**53, 2**64 - 1, -2, -(2**63)])
def test_any_seed_of_64_bits_repeats_its_text(client: httpx.Client, seed: int) -> None:
    body = {"start_string": "a", "num_generate": 40, "seed": seed}
    first, second = (client.post("/generate", json=body).json() for _ in range(2))
    assert first["text"] == second["text"]
    assert first["seed"] == seed % 2**64
    assert completed(client, prompt="a", max_tokens=40, seed=seed)["choices"][0]["text"] == first["text"][1:]
    last = stream(client, **body)[-2].id
    with client.stream("POST", "/generate", json={**body, "stream": True}, headers={"Last-Event-ID": str(last)}) as response:
        assert [event.name for event in events(response.iter_bytes())] == ["done"], "its events' ids can hold it"


def test_the_seed_minus_one_means_a_random_seed(client: httpx.Client) -> None:
    seeds = {client.post("/generate", json={"start_string": "a", "num_generate": 1, "seed": -1}).json()["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**53 for seed in seeds), "every JSON reader holds it exactly"


# --- values


@pytest.mark.parametrize(
    ("fields", "same_as"),
    [({"top_p": 0}, {"temperature": 0}), ({"top_k": 0}, {}), ({"top_k": -1}, {}), ({"top_k": 0, "top_p": 1.0}, {})],
)
def test_usual_values_of_sampling_have_their_usual_meaning(
    client: httpx.Client, fields: dict[str, Any], same_as: dict[str, Any]
) -> None:
    def text(**fields: Any) -> str:
        return str(client.post("/generate", json={"start_string": "a", "num_generate": 50, "seed": 3, **fields}).json()["text"])

    assert text(**fields) == text(**same_as)
    assert completed(client, **fields)["choices"] == completed(client, **same_as)["choices"]


@pytest.mark.slow
def test_a_null_optional_field_counts_as_absent(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    tried = 0
    for path, operations in document["paths"].items():
        if "post" not in operations:
            continue
        reference = operations["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        example = {key: "tiny" if key == "model" else value for key, value in schema["examples"][0].items()}
        nulls = dict.fromkeys(schema["properties"].keys() - example.keys())
        response = client.post(path, json=nulls | example)
        assert response.status_code == 200, (path, response.text)
        tried += len(nulls)
    assert tried > 100


def test_an_empty_query_parameter_counts_as_absent(client: httpx.Client) -> None:
    names = "&".join(f"{name}=" for name in ("seed", "top_k", "temperature", "stop", "model", "logprobs", "state", "echo"))
    response = client.get(f"/generate?start_string=a&num_generate=3&{names}")
    assert response.status_code == 200, response.text
    assert client.get("/generate?start_string=a&num_generate=3&stop=&stop=b&logprobs=false").status_code == 200
    assert error(client.get("/generate?start_string=")) == (422, "invalid_value", "start_string")


def test_logprobs_false_means_none(client: httpx.Client) -> None:
    assert completed(client, logprobs=False)["choices"][0]["logprobs"] is None
    assert completed(client, logprobs=0)["choices"][0]["logprobs"] is not None
    assert "logprobs" not in client.post("/generate", json={"start_string": "a", "num_generate": 3, "logprobs": False}).json()


# --- fields

HARMLESS: dict[str, Any] = {
    "service_tier": "auto", "tool_choice": "none", "parallel_tool_calls": False, "safety_identifier": "me", "prompt_cache_key": "k",
    "modalities": ["text"], "functions": [], "tools": [], "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0.0,
    "user": "me", "metadata": {"a": "b"}, "store": False, "reasoning_effort": "low", "verbosity": "medium",
    "repetition_penalty": 1.0, "ignore_eos": False, "min_tokens": 0, "skip_special_tokens": True, "use_beam_search": False,
    "length_penalty": 1.0, "add_special_tokens": True, "spaces_between_special_tokens": True, "top_k": -1, "min_p": 0.0,
    "detokenize": True, "best_of": 1, "response_format": {"type": "text"}, "chat_template_kwargs": {"thinking": False}, "stop": "",
    "include_stop_str_in_output": False, "stop_token_ids": [], "bad_words": [], "priority": 0, "cache_prompt": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True, "include_obfuscation": False},
}  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [("suffix", ""), ("logit_bias", {"1": 0}), ("modalities", []), ("model", "")])
def test_more_values_that_change_nothing(client: httpx.Client, field: str, value: object) -> None:
    assert completed(client, **{field: value})["choices"] == completed(client)["choices"]


@pytest.mark.parametrize("field", HARMLESS)
def test_what_changes_nothing_here_is_accepted(client: httpx.Client, field: str) -> None:
    assert completed(client, **{field: HARMLESS[field]})["choices"] == completed(client)["choices"]
    assert replied(client, **{field: HARMLESS[field]})["choices"] == replied(client)["choices"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"tool_choice": "required"}, "invalid_value"),
        ({"presence_penalty": 2.5}, "invalid_value"),
        ({"repetition_penalty": 0}, "invalid_value"),
        ({"repeat_penalty": 1.1}, "unsupported_value"),
        ({"repeat_penalty": True}, "unsupported_value"),
        ({"logit_bias": {"5": 101}}, "invalid_value"),
        ({"logit_bias": {"a": 1}}, "invalid_type"),
        ({"service_tier": "priority"}, "unsupported_value"),
        ({"store": True}, "unsupported_value"),
        ({"web_search_options": {}}, "unsupported_parameter"),
        ({"temprature": 1}, "unknown_parameter"),
        ({"temperature": "hot"}, "invalid_type"),
        ({"temperature": -1}, "invalid_value"),
        ({"messages": None}, "missing_required_parameter"),
        ({"messages": [USER | {"content": "a" * 10_001}]}, "context_length_exceeded"),
        ({"model": "absent"}, "model_not_found"),
        ({"min_tokens": 13}, "invalid_value"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name_with_openais_status_and_code(
    client: httpx.Client, fields: dict[str, Any], code: str
) -> None:
    response = client.post("/v1/chat/completions", json={"messages": [USER], **TINY, **fields})
    status, found, param = error(response)
    assert (status, found) == (404 if code == "model_not_found" else 400, code)
    assert str(param).partition(".")[0] == next(iter(fields))
    message = response.json()["error"]["message"]
    assert "Input should be None" not in message
    assert "less than or equal to 0" not in message


def test_every_field_of_openais_client_is_known() -> None:
    for parameters, model in (
        (chat_create_params.CompletionCreateParamsBase, ChatRequest),
        (completion_create_params.CompletionCreateParamsBase, CompletionRequest),
        (ChatCompletionAssistantMessageParam, Message),
        (ChatCompletionToolMessageParam, Message),
        (ChatCompletionContentPartTextParam, TextPart),
    ):
        assert parameters.__annotations__.keys() - model.model_fields.keys() == set()
    assert ChatCompletionMessage.model_fields.keys() - Message.model_fields.keys() == set(), "a reply can be sent back"


def test_messages_may_hold_what_clients_add(client: httpx.Client) -> None:
    part = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    plain = [USER, {"role": "assistant", "content": "Ay"}, {"role": "tool", "content": "3"}, USER]
    decorated = [
        {"role": "user", "content": [part]},
        {"role": "assistant", "content": "Ay", "tool_calls": [], "refusal": None, "annotations": [], "audio": None},
        {"role": "tool", "content": "3", "tool_call_id": "call_1"},
        USER,
    ]
    assert replied(client, messages=decorated)["choices"] == replied(client, messages=plain)["choices"]
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    response = client.post("/v1/chat/completions", json={"messages": picture})
    assert error(response) == (400, "unsupported_value", "messages.0.content")
    assert "image_url" in response.json()["error"]["message"]
    for content, place in (
        ([{"type": "text"}], "messages.0.content.0.text"),
        (5, "messages.0.content"),
        (["hi"], "messages.0.content.0"),
    ):
        response = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": content}]})
        assert response.json()["error"]["param"] == place


def test_unknown_fields_are_refused_or_ignored_and_named_as_the_server_was_started(
    client: httpx.Client, tmp_path: Path, publish: Publish
) -> None:
    messages = [USER | {"cache": 1}, {"role": "user", "content": [{"type": "text", "text": "Hi", "cite": {}}], "cache": 2}]
    body = {"messages": messages, **TINY, "mood": "gay", "stream_options": {"every": 1}, "né\n": 1}
    assert error(client.post("/v1/chat/completions", json=body))[:2] == (400, "unknown_parameter")
    publish()
    with serving(Settings(models_dir=tmp_path, unknown_fields="ignore")) as (_, lenient):
        response = lenient.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        assert set(response.headers["x-ignored-fields"].split(", ")) == {"cache", "cite", "mood", "every", "n??"}
        known = [USER, {"role": "user", "content": "Hi"}]
        assert response.json()["choices"] == replied(lenient, messages=known)["choices"]
        response = lenient.post("/generate", json={"start_string": "a", "num_generate": 3, "mood": 1})
        assert (response.status_code, response.headers["x-ignored-fields"]) == (200, "mood")
        response = lenient.get("/generate?start_string=a&num_generate=3&_=123")
        assert (response.status_code, response.headers["x-ignored-fields"]) == (200, "_")
        many = [USER | {f"k{i}": i} for i in range(40)]
        assert lenient.post("/v1/chat/completions", json={"messages": many, "max_tokens": 1}).status_code == 200
        assert "x-ignored-fields" not in lenient.post("/generate", json={"start_string": "a", "num_generate": 3}).headers
        response = lenient.post("/generate", json={"start_string": "a", "mood": 1, "temperature": -1})
        assert error(response) == (422, "invalid_value", "temperature")


# --- texts


def test_tokens_are_the_ids_of_the_models_characters(client: httpx.Client) -> None:
    ids = client.post("/vectorize", json={"text": "Hark, you"}).json()["ids"]
    assert completed(client, prompt=ids)["choices"] == completed(client, prompt="Hark, you")["choices"]
    assert completed(client, prompt=[ids, ids[:3]], echo=True)["choices"][1]["text"].startswith("Har")
    response = client.post("/v1/completions", json={"prompt": [[0, len(VOCABULARY)]]})
    assert error(response) == (400, "invalid_value", "prompt")
    assert f"0 to {len(VOCABULARY) - 1}" in response.json()["error"]["message"]


def test_characters_that_a_model_lacks_are_replaced_in_a_completion_and_counted(client: httpx.Client) -> None:
    response = client.post("/v1/completions", json={"prompt": "1 2 3 10", "echo": True, **TINY})
    assert response.json()["choices"][0]["text"].startswith(" " * 8)
    assert response.headers["x-unknown-characters"] == "5"
    assert "x-unknown-characters" not in client.post("/v1/completions", json={"prompt": "a", **TINY}).headers
    assert error(client.post("/v1/completions", json={"prompt": "1", "on_unknown": "error"}))[:2] == (400, "unknown_characters")


PREFIX: list[dict[str, Any]] = [USER, {"role": "assistant", "content": "I am "}]


@pytest.mark.parametrize(
    ("messages", "fields", "text"),
    [
        (PREFIX, {}, "USER:\nHi\n\nASSISTANT:\nI am "),
        (PREFIX, {"continue_final_message": True, "add_generation_prompt": False}, "USER:\nHi\n\nASSISTANT:\nI am "),
        (PREFIX, {"add_generation_prompt": True}, "USER:\nHi\n\nASSISTANT:\nI am \n\nASSISTANT:\n"),
        (PREFIX, {"continue_final_message": False}, "USER:\nHi\n\nASSISTANT:\nI am \n\nASSISTANT:\n"),
        ([USER], {"continue_final_message": True}, "USER:\nHi"),
        ([USER], {"add_generation_prompt": True}, "USER:\nHi\n\nASSISTANT:\n"),
    ],
)
def test_an_assistants_beginning_is_continued(
    client: httpx.Client, messages: list[dict[str, Any]], fields: dict[str, Any], text: str
) -> None:
    expected = completed(client, prompt=text, stop="\n\n")["choices"][0]["text"]
    assert replied(client, messages=messages, **fields)["choices"][0]["message"]["content"] == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("turn", "prompt"),
    [
        ("{{words}}{words}", "{words}Hi{words}I am "),
        ("<{speaker}>{words}</{speaker}>", "<USER>Hi</USER><ASSISTANT>I am "),
        ("{speaker:>5}: {words}|{words}", " USER: Hi|HiASSISTANT: I am "),
    ],
)
def test_a_chat_in_a_template_of_ones_own_is_continued(tmp_path: Path, publish: Publish, turn: str, prompt: str) -> None:
    publish(architecture=ARCHITECTURE.model_copy(update={"vocabulary": [*VOCABULARY, *"<>/|{}"]}))
    (tmp_path / "tiny" / "chat.json").write_text(json.dumps({"turn": turn, "reply": ""}))
    with serving(Settings(models_dir=tmp_path)) as (_, peer):
        expected = completed(peer, prompt=prompt, stop="\n\n", on_unknown="error")["choices"][0]["text"]
        assert replied(peer, messages=PREFIX, on_unknown="error")["choices"][0]["message"]["content"] == expected


@pytest.mark.parametrize("turn", ["5", "{words!r}", "{words:>30}", "{words:.1}", "{words[0]}", "{words}{words[0]}"])
def test_a_chat_template_that_changes_the_words_or_leaves_them_out_is_refused(tmp_path: Path, publish: Publish, turn: str) -> None:
    publish()
    (tmp_path / "tiny" / "chat.json").write_text(json.dumps({"turn": turn}))
    with serving(Settings(models_dir=tmp_path)) as (_, peer):
        assert "turn must contain {words}" in peer.get("/models").json()["refused"][0]


def test_continuing_and_not_continuing_contradict_each_other(client: httpx.Client) -> None:
    body = {"messages": PREFIX, "continue_final_message": True, "add_generation_prompt": True}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "opposites" in response.json()["error"]["message"]


def test_load_tools_get_the_number_of_tokens_they_request(client: httpx.Client) -> None:
    """The reply would end at its first character: its template's stop string is all that the model may draw."""
    blank = {"allowed_characters": "\n", "max_tokens": 30}
    assert replied(client, **blank)["usage"]["completion_tokens"] == 0
    assert replied(client, **blank, ignore_eos=True)["usage"]["completion_tokens"] == 30
    assert replied(client, **blank, min_tokens=7)["usage"]["completion_tokens"] == 6, (
        "the first stop string after them begins there"
    )
    assert completed(client, **blank, stop="\n", min_tokens=7)["usage"]["completion_tokens"] == 7


# --- streams


def chunks(client: httpx.Client, path: str, **fields: Any) -> list[dict[str, Any]]:
    with client.stream("POST", path, json={**TINY, **fields, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        data = [line[6:] for line in "".join(response.iter_text()).split("\n") if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(one) for one in data[:-1]]


@pytest.mark.parametrize("max_tokens", [1, 5, 100])
def test_no_text_is_in_the_chunk_with_the_role_or_the_reason(client: httpx.Client, max_tokens: int) -> None:
    role, *texts, last = chunks(client, "/v1/chat/completions", messages=[USER], max_tokens=max_tokens, ignore_eos=True)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "length")
    assert sum(len(chunk["choices"][0]["delta"]["content"]) for chunk in texts) == max_tokens
    assert {chunk["choices"][0]["finish_reason"] for chunk in [role, *texts]} == {None}

    *texts, last = chunks(client, "/v1/completions", prompt="Hi", max_tokens=max_tokens)
    assert (last["choices"][0]["text"], last["choices"][0]["finish_reason"]) == ("", "length")
    assert sum(len(chunk["choices"][0]["text"]) for chunk in texts) == max_tokens
    assert {chunk["choices"][0]["finish_reason"] for chunk in texts} == {None}


def test_a_stream_without_any_text_has_a_role_and_a_reason(client: httpx.Client) -> None:
    role, last = chunks(client, "/v1/chat/completions", messages=[USER], allowed_characters="\n")
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0]["finish_reason"] == "stop"
    echoed, last = chunks(client, "/v1/completions", prompt="Hi", max_tokens=0, echo=True)
    assert (echoed["choices"][0]["text"], last["choices"][0]["finish_reason"]) == ("Hi", "length")


def test_usage_comes_last_or_with_every_chunk_as_requested(client: httpx.Client) -> None:
    options = {"include_usage": True}
    *others, last = chunks(client, "/v1/completions", prompt="Hi", max_tokens=100, stream_options=options)
    assert {json.dumps(chunk["usage"]) for chunk in others} == {"null"}
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 100)
    *others, last = chunks(
        client, "/v1/completions", prompt="Hi", max_tokens=100, stream_options=options | {"continuous_usage_stats": True}
    )
    counts, so_far = [chunk["usage"]["completion_tokens"] for chunk in others], 0
    for count, chunk in zip(counts, others, strict=True):
        so_far += len(chunk["choices"][0]["text"])
        assert count == so_far
    usage = last["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (2, 100, 102)


def test_openais_client_reads_all_of_a_stream(client: httpx.Client) -> None:
    text = replied(client, max_tokens=60)["choices"][0]["message"]["content"]
    fields: Any = {"model": "tiny", "messages": [USER], "seed": 1, "max_tokens": 60, "stop": text[40:44]}
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as peer:
        with peer.chat.completions.stream(**fields) as streamed:
            streamed.until_done()
        final = streamed.get_final_completion()
    assert final.choices[0].message.content == text[: text.index(text[40:44])]


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
def test_no_reader_of_lines_breaks_an_event(client: httpx.Client, path: str) -> None:
    """U+2028, U+2029 and U+0085 end lines for some of them."""
    model = {"start_string": "a\u2028", "prompt": "a\u2028", "messages": [USER], "allowed_characters": "\u2028", "echo": True}
    wanted = {"/generate": ("start_string", "echo"), "/v1/completions": ("prompt", "echo"), "/v1/chat/completions": ("messages",)}[
        path
    ]
    body = {name: model[name] for name in wanted} | {"allowed_characters": "\u2028", "stream": True}
    with client.stream("POST", path, json=body | {"num_generate" if path == "/generate" else "max_tokens": 3}) as response:
        text = response.read().decode()
    assert len(text.splitlines()) == len(text.split("\n")) - 1
    assert text.count("\\u2028") >= 3


# --- HTTP


def test_head_is_answered_wherever_get_is(client: httpx.Client) -> None:
    paths = [path for path, operations in client.get("/openapi.json").json()["paths"].items() if "get" in operations]
    assert len(paths) >= 10
    for path in [*paths, "/", "/docs", "/web/app.js", "/openapi.json"]:
        path = path.replace("{name}", "tiny")
        parameters: dict[str, str | int] = {"start_string": "a", "num_generate": 100_000} if path == "/generate" else {}
        get, head = client.stream("GET", path, params=parameters), client.head(path, params=parameters)
        with get as response:
            assert head.status_code == response.status_code, path
            assert head.headers["content-type"] == response.headers["content-type"]
        assert head.content == b""
    assert client.head("/absent").status_code == 404
    assert client.head("/score").status_code == 405
    for method, path, allowed in (
        ("DELETE", "/models", "GET, HEAD"),
        ("GET", "/score", "POST"),
        ("PUT", "/generate", "GET, HEAD, POST"),
        ("POST", "/static-offline-docs/swagger-ui.css", "GET, HEAD"),
        ("POST", "/static-offline-docs/generate", "GET, HEAD"),
    ):
        refused = client.request(method, path)
        assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
        assert allowed in refused.json()["error"]["message"]


def test_a_slash_at_the_end_changes_nothing(client: httpx.Client) -> None:
    response = client.post("/generate/", json={"start_string": "a", "num_generate": 3})
    assert (response.status_code, response.history) == (200, [])
    for path in ("/healthz/", "/models/", "/v1/models/", "/docs/"):
        assert client.get(path).status_code == 200, path
    assert client.get("/absent/").status_code == 404


@pytest.mark.parametrize("path", ["/health", "/ping"])
def test_other_names_of_the_health_check(client: httpx.Client, path: str) -> None:
    assert client.get(path).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress), ("identity", bytes)]
)
def test_a_compressed_body_is_read(client: httpx.Client, encoding: str, compress: Any) -> None:
    content = compress(json.dumps({"start_string": "a", "num_generate": 3, "seed": 1}).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    for sent in (content, iter([content[i : i + 7] for i in range(0, len(content), 7)])):
        response = client.post("/generate", content=sent, headers=headers)
        assert response.status_code == 200, response.text
        assert len(response.json()["text"]) == 4


@pytest.mark.slow
def test_what_a_compressed_body_holds_is_limited_too(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    def send(content: bytes) -> tuple[int, str, str | None]:
        return error(client.post("/generate", content=content, headers=headers))

    assert send(gzip.compress(b" " * 2_000_001))[:2] == (413, "body_too_long")
    assert send(gzip.compress(b" " * 1_000_000_000, 1))[:2] == (413, "body_too_long")
    assert send(gzip.compress(b"{}")[:-3])[:2] == (422, "invalid_encoding")
    assert send(gzip.compress(b"{}") + b"more")[:2] == (422, "invalid_encoding")
    halves = gzip.compress(b'{"start_string": "a", ') + gzip.compress(b'"num_generate": 3}')
    assert client.post("/generate", content=halves, headers=headers).status_code == 200, "a file may have several members"
    assert send(b"not gzip")[:2] == (422, "invalid_encoding")
    assert send(gzip.compress(b"") * 50_000)[0] == 422, "the body is missing"
    headers["Content-Encoding"] = "deflate"
    assert send(zlib.compress(b"{}") * 2)[:2] == (422, "invalid_encoding")


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "é"])
def test_another_encoding_is_refused_with_those_that_are_read(client: httpx.Client, encoding: str) -> None:
    headers = [(b"Content-Type", b"application/json"), (b"Content-Encoding", encoding.encode("latin-1"))]
    response = client.post("/generate", content=b"x", headers=headers)
    assert error(response) == (415, "unsupported_encoding", None)
    assert response.headers["accept-encoding"] == "gzip, deflate"


def test_openais_operations_are_found_or_their_place_is_told(client: httpx.Client) -> None:
    for path in ("/chat/completions", "/completions", "/embeddings"):
        response = client.post(path, json={})
        assert response.status_code == 404
        assert "/v1" in response.json()["error"]["message"]
    for path in ("/v1/images/generations", "/v1/responses/resp_a", "/v1/files/f"):
        assert error(client.post(path, json={})) == (400, "unsupported_endpoint", None)
    assert client.get("/v1/nothing").status_code == 404


def test_other_names_mean_models_where_the_server_says_so(tmp_path: Path, publish: Publish) -> None:
    publish("one"), publish("two", seed=1)
    with serving(Settings(models_dir=tmp_path, default_model="one", aliases="gpt-4o=two meta/llama=one")) as (_, peer):
        listed = peer.get("/v1/models").json()["data"]
        assert {model["id"]: model["root"] for model in listed} == {
            "one": "one",
            "two": "two",
            "gpt-4o": "two",
            "meta/llama": "one",
        }
        for name, root in (("meta/llama", "one"), ("meta%2Fllama", "one"), ("gpt-4o", "two"), ("two", "two")):
            assert peer.get(f"/v1/models/{name}").json()["root"] == root
        assert [model["name"] for model in peer.get("/api/tags").json()["models"]][2:] == ["gpt-4o:latest", "meta/llama:latest"]
        assert error(peer.get("/v1/models/absent")) == (404, "model_not_found", "model")
        assert completed(peer, model="gpt-4o")["model"] == "two"
        assert error(peer.post("/v1/completions", json={"model": "gpt-5", "prompt": "a"})) == (404, "model_not_found", "model")
    with serving(Settings(models_dir=tmp_path, default_model="one", any_model=True)) as (_, peer):
        assert completed(peer, model="gpt-5")["model"] == "one"
        assert completed(peer, model="two")["model"] == "two"
    with serving(Settings(models_dir=tmp_path, default_model="one", any_model=True, aliases="gpt-5=absent")) as (_, peer):
        assert completed(peer, model="gpt-5")["model"] == "one", "an alias of no model makes no difference"
