"""/v1/responses, by OpenAI's own client, whose types say what an answer and a stream consist of."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import responses as types
from openai.types.responses import response_create_params, response_input_item_param
from pydantic import BaseModel, TypeAdapter

from service.api.openai.logprobs import token_logprobs
from service.api.openai.responses import stream as responses_stream
from service.api.openai.responses.items import FunctionCall, FunctionCallOutput, InputText, MessageItem
from service.api.openai.responses.request import FlatFunctionTool, ResponsesRequest
from tests.sse import events
from tests.support import ENDLESS, wait_until

CALL = {"X-Folio-Tools": "call"}
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Of a town.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"town": {"enum": ["Verona", "Elsinore"]}, "warm": {"type": "boolean"}},
        "required": ["town", "warm"],
        "additionalProperties": False,
    },
}
HOUR: Any = {"type": "function", "name": "hour"}
TINY: dict[str, Any] = {"model": "tiny", "extra_body": {"seed": 3}}
ENDLESS_TURN: dict[str, Any] = {
    "model": "tiny",
    "max_output_tokens": ENDLESS["num_generate"],
    "extra_body": {"allowed_characters": "a"},  # the turn never ends
}
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(types.ResponseStreamEvent)


class Weather(BaseModel):
    town: Literal["Verona", "Elsinore"]
    warm: bool


@pytest.fixture
def peer(client: httpx.Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as peer:
        yield peer


def test_what_utf_8_cannot_encode_is_repeated_as_it_came(client: httpx.Client) -> None:
    body = r'{"input": "a", "max_output_tokens": 3, "seed": 3, "instructions": "\udfff", "metadata": {"a": "\ud800"}, "stream": %s}'
    for stream in ("false", "true"):
        response = client.post("/v1/responses", content=body % stream, headers={"Content-Type": "application/json"})
        assert response.status_code == 200
        answer = list(events([response.content]))[-1].data["response"] if stream == "true" else response.json()
        assert (answer["status"], answer["instructions"], answer["metadata"]) == ("incomplete", "\udfff", {"a": "\ud800"})


def answered(client: httpx.Client, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/responses", json={"model": "tiny", "input": "Hi", "seed": 3, **fields}, headers=headers)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    types.Response.model_validate(found)
    return found


def streamed(client: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    """The data of all events, each of which must be of a type that OpenAI's client knows."""
    body = {"model": "tiny", "input": "Hi", "seed": 3, "stream": True, **fields}
    with client.stream("POST", "/v1/responses", json=body) as response:
        found = list(events(response.iter_bytes()))
    for number, event in enumerate(found):
        STREAM_EVENT.validate_python(event.data)
        assert (event.name, event.data["sequence_number"]) == (event.data["type"], number)
    return [event.data for event in found]


def kinds(found: list[dict[str, Any]]) -> list[str]:
    """The types of events; deltas that follow one another count once."""
    names = [data["type"].removeprefix("response.") for data in found]
    return [name for name, before in zip(names, ["", *names], strict=False) if name != before or not name.endswith(".delta")]


def repeated(answer: dict[str, Any]) -> dict[str, Any]:
    """What must be the same whenever the request is. Only a repetition finds its prompt in the cache."""
    usage = {**answer["usage"], "input_tokens_details": None}
    return {name: value for name, value in answer.items() if name not in ("id", "created_at", "completed_at")} | {"usage": usage}


def schema(model: type[BaseModel]) -> dict[str, Any]:
    return {"type": "json_schema", "name": "it", "schema": model.model_json_schema(), "strict": True}


# --- texts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ("Who art thou?", [{"role": "user", "content": "Who art thou?"}]),
        (
            [
                {"role": "developer", "content": "A wood."},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": t} for t in ("Who ", "goes?")]},
                {"type": "reasoning", "id": "rs_a", "summary": [], "encrypted_content": "x"},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Ay", "annotations": []}]},
                {"role": "user", "content": "Stand!"},
            ],
            [
                {"role": "developer", "content": "A wood."},
                {"role": "user", "content": "Who goes?"},
                {"role": "assistant", "content": "Ay"},
                {"role": "user", "content": "Stand!"},
            ],
        ),
        (
            [
                {"role": "user", "content": "How warm?"},
                {"type": "function_call", "call_id": "call_a", "name": "weather", "arguments": "{}"},
                {"type": "function_call", "call_id": "call_b", "name": "hour", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "call_a", "output": "warm"},
                {"type": "function_call_output", "call_id": "call_b", "output": [{"type": "input_text", "text": "noon"}]},
            ],
            [
                {"role": "user", "content": "How warm?"},
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": i, "type": "function", "function": {"name": name, "arguments": "{}"}}
                        for i, name in (("call_a", "weather"), ("call_b", "hour"))
                    ],
                },
                {"role": "tool", "tool_call_id": "call_a", "content": "warm"},
                {"role": "tool", "tool_call_id": "call_b", "content": "noon"},
            ],
        ),
        (
            [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I am"}],  # which is continued
            [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I am"}],
        ),
    ],
)
def test_the_text_is_that_of_a_chat(peer: OpenAI, given: Any, messages: Any) -> None:
    fields: Any = {"temperature": 0.8, "top_p": 0.9, "extra_body": {"seed": 5, "top_k": 20, "repetition_penalty": 1.1}}
    system: Any = [{"role": "system", "content": "A castle."}]
    chat = peer.chat.completions.create(model="other", messages=system + messages, max_tokens=50, **fields)
    answer = peer.responses.create(model="other", instructions="A castle.", input=given, max_output_tokens=50, **fields)
    assert answer.output_text == chat.choices[0].message.content
    assert answer.model == "other"
    assert answer.usage is not None
    assert chat.usage is not None
    assert (
        peer.responses.input_tokens.count(model="other", instructions="A castle.", input=given).input_tokens
        == answer.usage.input_tokens
    )
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (chat.usage.prompt_tokens, chat.usage.completion_tokens)


def test_an_answer_repeats_what_was_asked_and_is_stored_nowhere(client: httpx.Client) -> None:
    answer = answered(
        client,
        stop=["a"],  # which ends it soon
        instructions="A castle.",
        max_output_tokens=900,
        metadata={"run": "a"},
        parallel_tool_calls=True,
        reasoning={"effort": "low"},
        store=True,
        temperature=0.5,
        tools=[WEATHER, HOUR],
        tool_choice={"type": "function", "name": "hour"},
        include=["reasoning.encrypted_content"],
        text={"format": {"type": "text"}, "verbosity": "low"},
        top_p=0.9,
        truncation="auto",
        user="me",
    )
    told = {name: answer[name] for name in ("instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "reasoning")}
    assert told == {
        "instructions": "A castle.",
        "max_output_tokens": 900,
        "metadata": {"run": "a"},
        "parallel_tool_calls": True,
        "reasoning": {"effort": "low"},
    }
    told = {name: answer[name] for name in ("temperature", "text", "tool_choice", "top_p", "truncation", "user", "store")}
    assert told == {
        "temperature": 0.5,
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tool_choice": {"type": "function", "name": "hour"},
        "top_p": 0.9,
        "truncation": "auto",
        "user": "me",
        "store": False,
    }
    assert answer["tools"] == [WEATHER, {"description": None, "parameters": None, "strict": True, **HOUR}]
    assert (answer["object"], answer["status"], answer["error"], answer["incomplete_details"]) == (
        "response",
        "completed",
        None,
        None,
    )
    assert answer["id"].startswith("resp_")
    assert answer["completed_at"] >= answer["created_at"] > 1_700_000_000


def test_an_answer_is_incomplete_where_the_limit_ends_it(client: httpx.Client, peer: OpenAI) -> None:
    text = peer.responses.create(input="Hi", max_output_tokens=40, **TINY).output_text
    for fields, status, length in (({}, "incomplete", 40), ({"stop": text[20:24]}, "completed", text.index(text[20:24]))):
        answer = answered(client, max_output_tokens=40, **fields)
        (message,) = answer["output"]
        assert (answer["status"], message["status"], message["role"]) == (status, status, "assistant")
        assert message["content"][0]["text"] == text[:length]
        reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
        assert (answer["incomplete_details"], answer["completed_at"] is None) == (reason, status == "incomplete")
        last = streamed(client, max_output_tokens=40, **fields)[-1]
        assert last["type"] == f"response.{status}"
        assert repeated(last["response"]) == repeated(answer)


def test_a_streamed_text_has_openais_events_in_their_order(client: httpx.Client) -> None:
    found = streamed(client, max_output_tokens=200, stop="a", pace=10_000)
    assert kinds(found) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    created, _, added, part, *deltas, text_done, part_done, item_done, completed = found
    assert (created["response"]["status"], created["response"]["output"], created["response"]["usage"]) == ("in_progress", [], None)
    assert (added["item"]["status"], added["item"]["content"], part["part"]["text"]) == ("in_progress", [], "")
    (message,) = completed["response"]["output"]
    assert (
        "".join(delta["delta"] for delta in deltas)
        == text_done["text"]
        == part_done["part"]["text"]
        == message["content"][0]["text"]
    )
    assert item_done["item"] == message
    assert {event["item_id"] for event in (part, *deltas, text_done, part_done)} == {message["id"]} == {added["item"]["id"]}
    assert created["response"]["id"] == completed["response"]["id"]
    assert repeated(completed["response"]) == repeated(answered(client, max_output_tokens=200, stop="a"))


@pytest.mark.parametrize("stream", [False, True])
def test_an_empty_text_is_a_message_too(client: httpx.Client, stream: bool) -> None:
    fields: Any = {"allowed_characters": "\n"}  # two of which end the turn
    answer = streamed(client, **fields)[-1]["response"] if stream else answered(client, **fields)
    assert (answer["status"], answer["output"][0]["content"][0]["text"]) == ("completed", "")


def test_the_same_request_and_seed_give_the_same_answer(client: httpx.Client) -> None:
    first, second = (answered(client, max_output_tokens=30) for _ in range(2))
    assert repeated(first) == repeated(second)
    assert first["id"] != second["id"]
    other = answered(client, max_output_tokens=30, seed=4)
    assert other["output"][0]["id"] != first["output"][0]["id"]


def test_log_probabilities_are_those_of_a_chat(client: httpx.Client, peer: OpenAI) -> None:
    fields: Any = {"max_output_tokens": 12, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    chat = peer.chat.completions.create(
        messages=[{"role": "user", "content": "Hi"}], max_tokens=12, logprobs=True, top_logprobs=2, **TINY
    )
    assert chat.choices[0].logprobs is not None
    expected = [entry.model_dump() for entry in chat.choices[0].logprobs.content or []]
    assert len(expected) == 12
    assert answered(client, **fields)["output"][0]["content"][0]["logprobs"] == expected
    found = streamed(client, **fields)
    assert [entry for data in found if data["type"].endswith("text.delta") for entry in data["logprobs"]] == expected
    for data in found:
        if data["type"] == "response.output_text.done":
            assert data["logprobs"] == expected
    assert answered(client, max_output_tokens=12, top_logprobs=2)["output"][0]["content"][0]["logprobs"] == []


def test_the_asynchronous_client_gets_the_same(client: httpx.Client, peer: OpenAI) -> None:
    async def both() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none") as other:
            whole = await other.responses.create(input="Hi", max_output_tokens=30, **TINY)
            stream = await other.responses.create(input="Hi", max_output_tokens=30, stream=True, **TINY)
            deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            return whole.output_text, "".join(deltas)

    assert set(asyncio.run(both())) == {peer.responses.create(input="Hi", max_output_tokens=30, **TINY).output_text}


# --- formats


def test_a_parsed_answer_is_valid_under_its_model(client: httpx.Client, peer: OpenAI) -> None:
    answer = peer.responses.parse(input="How is Verona?", text_format=Weather, **TINY)
    assert isinstance(answer.output_parsed, Weather)
    with peer.responses.stream(input="How is Verona?", text_format=Weather, **TINY) as stream:
        parsed = [event.parsed for event in stream if event.type == "response.output_text.done"]
        final = stream.get_final_response()
    assert parsed == [final.output_parsed] == [answer.output_parsed]
    assert final.output_text == answer.output_text

    async def parse() -> Weather | None:
        peer = AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none")
        async with peer, peer.responses.stream(input="How is Verona?", text_format=Weather, **TINY) as stream:
            return (await stream.get_final_response()).output_parsed

    assert asyncio.run(parse()) == answer.output_parsed
    sent_back: Any = [item.model_dump() for item in answer.output]
    peer.responses.create(input=[{"role": "user", "content": "Hi"}, *sent_back, {"role": "user", "content": "And?"}], **TINY)


def test_formats_are_demanded_and_named_in_errors(client: httpx.Client, peer: OpenAI) -> None:
    found = answered(client, text={"format": {"type": "json_object"}})
    assert isinstance(json.loads(found["output"][0]["content"][0]["text"]), dict)
    assert found["status"] == "completed"
    assert answered(client, text={"format": schema(Weather)})["text"] == {"format": schema(Weather)}
    with pytest.raises(openai.BadRequestError, match="shortest") as raised:
        peer.responses.create(input="Hi", max_output_tokens=5, text={"format": {"type": "json_object"}}, **TINY)
    assert raised.value.param == "text.format"


# --- tools


def test_a_loop_calls_reads_the_result_and_ends_with_a_text(client: httpx.Client, peer: OpenAI) -> None:
    def run(stream: bool) -> list[Any]:
        said: list[Any] = [{"role": "user", "content": "Is it warm in Verona?"}]
        while True:
            fields: Any = {"input": said, "tools": [WEATHER], "store": False, "extra_headers": CALL, **TINY}
            fields["include"] = ["reasoning.encrypted_content"]
            if stream:
                with peer.responses.stream(**{**fields, "extra_body": {"seed": 3, "stop": "a"}}) as events:
                    answer: Any = events.get_final_response()
            else:
                answer = peer.responses.create(**{**fields, "extra_body": {"seed": 3, "stop": "a"}})
            said += answer.output
            calls = [item for item in answer.output if item.type == "function_call"]
            if not calls:
                return [
                    item if isinstance(item, dict) else (item.id, getattr(item, "call_id", answer.output_text)) for item in said
                ]
            for call in calls:
                Weather.model_validate_json(call.arguments)
                said.append({"type": "function_call_output", "call_id": call.call_id, "output": "It is."})

    asked, call, result, text = run(stream=False)
    assert (asked["role"], result["type"], result["call_id"]) == ("user", "function_call_output", call[1])
    assert text[0].startswith("msg_")
    assert run(stream=False) == run(stream=True) == [asked, call, result, text]
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("none", set()),
        ("auto", set()),
        ("required", {"weather", "hour"}),
        ({"type": "function", "name": "hour"}, {"hour"}),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}, {"weather"}),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}, set()),
    ],
)
def test_the_choice_of_a_tool(client: httpx.Client, choice: Any, names: set[str]) -> None:
    called = set()
    for seed in range(8):
        answer = answered(client, tools=[WEATHER, HOUR], tool_choice=choice, seed=seed, stop="a", max_output_tokens=100)
        assert {item["type"] for item in answer["output"]} == {"function_call" if names else "message"}
        called |= {item["name"] for item in answer["output"] if names}
        for item in answer["output"] if names else []:
            assert (item["status"], answer["status"]) == ("completed", "completed")
            arguments = json.loads(item["arguments"])
            assert arguments == {} if item["name"] == "hour" else Weather.model_validate(arguments)
    assert called == names


def test_auto_calls_where_the_header_says_so(client: httpx.Client) -> None:
    named = answered(client, {"X-Folio-Tools": "call hour"}, tools=[WEATHER, HOUR])
    assert [item["name"] for item in named["output"]] == ["hour"]
    allowed: Any = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}
    assert {answered(client, CALL, tools=[WEATHER, HOUR], tool_choice=allowed, seed=s)["output"][0]["name"] for s in range(5)} == {
        "weather"
    }


def test_calls_are_parallel_only_where_that_is_allowed_and_streamed_as_openai_does(client: httpx.Client) -> None:
    fields: Any = {"tools": [WEATHER, HOUR], "tool_choice": "required"}
    assert {len(answered(client, seed=seed, **fields)["output"]) for seed in range(12)} == {1}
    several = next(s for s in range(50) if len(answered(client, seed=s, parallel_tool_calls=True, **fields)["output"]) > 1)
    answer = answered(client, seed=several, parallel_tool_calls=True, **fields)
    found = streamed(client, seed=several, parallel_tool_calls=True, pace=10_000, **fields)
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    assert kinds(found) == ["created", "in_progress", *call * len(answer["output"]), "completed"]
    assert repeated(found[-1]["response"]) == repeated(answer)
    for index, item in enumerate(answer["output"]):
        mine = [data for data in found if data.get("output_index") == index]
        assert mine[0]["item"] == {**item, "status": "in_progress", "arguments": ""}
        assert "".join(data["delta"] for data in mine[1:-2]) == mine[-2]["arguments"] == item["arguments"]
        assert mine[-1]["item"] == item
        assert {data["item_id"] for data in mine[1:-1]} == {item["id"]}
    assert len({item["call_id"] for item in answer["output"]}) == len(answer["output"])


# --- errors


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"input": None}, "missing_required_parameter", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": 5}, "invalid_type", "input"),
        ({"input": [{"type": "reasoning", "id": "rs_a", "summary": []}]}, "invalid_value", "input"),
        ({"input": [{"role": "user"}]}, "missing_required_parameter", "input.0.content"),
        ({"input": [{"role": "tool", "content": "a"}]}, "invalid_value", "input.0.role"),
        ({"input": [{"type": "item_reference", "id": "msg_a"}]}, "invalid_value", "input"),
        ({"input": [{"id": "msg_a"}]}, "invalid_value", "input"),
        ({"input": [{"type": "web_search_call", "id": "a"}]}, "unsupported_value", "input.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "unsupported_value", "input.0.content.0"),
        ({"input": [{"type": "function_call_output", "call_id": "a"}]}, "missing_required_parameter", "input.0.output"),
        ({"input": "a" * 10_001}, "context_length_exceeded", "input"),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"max_output_tokens": 10**10}, "too_long", "max_output_tokens"),
        ({"previous_response_id": "resp_a"}, "unsupported_parameter", "previous_response_id"),
        ({"conversation": "conv_a"}, "unsupported_parameter", "conversation"),
        ({"prompt": {"id": "pmpt_a"}}, "unsupported_parameter", "prompt"),
        ({"background": True}, "unsupported_value", "background"),
        ({"truncation": "some"}, "invalid_value", "truncation"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_value", "tools.0"),
        ({"tools": [HOUR, HOUR]}, "invalid_value", "tools"),
        ({"tools": [HOUR | {"description": 5}]}, "invalid_type", "tools.0.description"),
        ({"tools": [HOUR | {"strict": "perhaps"}]}, "invalid_type", "tools.0.strict"),
        ({"tools": [HOUR], "tool_choice": {"type": "function", "name": "absent"}}, "invalid_value", "tool_choice"),
        ({"tools": [HOUR], "tool_choice": {"type": "file_search"}}, "unsupported_value", "tool_choice"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "invalid_value", "text.format"),
        ({"top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"temperature": "hot"}, "invalid_type", "temperature"),
        ({"temprature": 1}, "unknown_parameter", "temprature"),
        ({"model": "absent"}, "model_not_found", "model"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_named_with_openais_status_and_code(
    client: httpx.Client, fields: dict[str, Any], code: str, param: str, stream: bool
) -> None:
    response = client.post("/v1/responses", json={"model": "tiny", "input": "Hi", "stream": stream, **fields})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404 if code == "model_not_found" else 400, code), error
    assert error["param"] == param, error
    assert error.keys() == {"code", "message", "type", "param"}


def test_errors_are_the_clients_own_and_say_what_to_do(peer: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="send the whole conversation in input"):
        peer.responses.create(input="Hi", previous_response_id="resp_a", **TINY)
    with pytest.raises(openai.BadRequestError, match="web_search are not supported; supported types: function"):
        peer.responses.create(input="Hi", tools=[{"type": "web_search"}], stream=True, **TINY)
    with pytest.raises(openai.NotFoundError, match="no model 'absent'"):
        peer.responses.create(input="Hi", model="absent")
    with pytest.raises(openai.NotFoundError, match="no model 'absent'"):
        peer.responses.input_tokens.count(input="Hi", model="absent")
    with pytest.raises(openai.BadRequestError, match="X-Folio-Tools"):
        peer.responses.create(input="Hi", tools=[HOUR], extra_headers={"X-Folio-Tools": "call absent"}, **TINY)


def test_what_an_item_refers_to_is_left_out_and_the_answer_says_so(client: httpx.Client) -> None:
    asked = [{"role": "user", "content": "Hi"}]
    fields = {"model": "tiny", "seed": 1, "max_output_tokens": 20}
    plain, referring = (
        client.post("/v1/responses", json={"input": [*before, *asked], **fields})
        for before in ([], [{"type": "item_reference", "id": "msg_a"}, {"id": "msg_b"}])
    )
    assert referring.json()["output"] == plain.json()["output"]
    assert (plain.headers.get("x-ignored-fields"), referring.headers["x-ignored-fields"]) == (None, "item_reference")


def test_no_response_is_stored(peer: OpenAI) -> None:
    answer = peer.responses.create(input="Hi", max_output_tokens=5, store=True, **TINY)
    for ask in (peer.responses.retrieve, peer.responses.delete, peer.responses.cancel, peer.responses.input_items.list):
        with pytest.raises(openai.BadRequestError, match="stores no responses"):
            ask(answer.id)


def test_a_stream_that_fails_says_so(client: httpx.Client, peer: OpenAI, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_until(lambda: engine.running == 0)  # no stream of an earlier test may meet the fault
    make, made = token_logprobs, iter([True])

    def failing(*given: Any) -> Any:
        if next(made, None) is None:
            raise RuntimeError("a fault of the test")
        return make(*given)

    monkeypatch.setattr(responses_stream, "token_logprobs", failing)
    found = streamed(client, max_output_tokens=ENDLESS["num_generate"], allowed_characters="abc")
    assert kinds(found) == ["created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "failed"]
    failed = found[-1]["response"]
    assert (failed["status"], failed["error"]["code"], failed["completed_at"]) == ("failed", "server_error", None)
    assert "the server failed" in failed["error"]["message"]
    (message,) = failed["output"]
    assert message["status"] == "incomplete"
    assert message["content"][0]["text"] == "".join(data["delta"] for data in found[4:-1])
    made = iter([True])
    with (
        peer.responses.stream(input="Hi", **ENDLESS_TURN) as stream,
        pytest.raises(RuntimeError, match="completed"),
    ):
        stream.get_final_response()


def test_a_client_that_disconnects_frees_its_slot(peer: OpenAI, engine: Any) -> None:
    with peer.responses.create(input="Hi", stream=True, **ENDLESS_TURN) as stream:
        assert next(iter(stream)).type == "response.created"
        wait_until(lambda: engine.running == 1)
    wait_until(lambda: engine.running == 0)


def test_every_field_of_openais_client_is_known() -> None:
    def fields(model: type[BaseModel]) -> set[str]:
        return {field.alias or name for name, field in model.model_fields.items()} | model.model_fields.keys()

    parameters = response_create_params.ResponseCreateParamsBase.__annotations__.keys()
    assert parameters - fields(ResponsesRequest) == set()
    for theirs, ours in (
        (types.EasyInputMessage, MessageItem),
        (types.ResponseOutputMessage, MessageItem),
        (types.ResponseFunctionToolCall, FunctionCall),
        (types.ResponseOutputText, InputText),
        (types.ResponseInputText, InputText),
        (types.FunctionTool, FlatFunctionTool),
    ):
        assert theirs.model_fields.keys() - fields(ours) == set(), theirs
    assert response_input_item_param.Message.__annotations__.keys() - fields(MessageItem) == set()
    assert response_input_item_param.FunctionCallOutput.__annotations__.keys() - fields(FunctionCallOutput) == set()
