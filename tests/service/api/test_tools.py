"""Tools in chats: calls that are valid, whole and equal for equal seeds, as OpenAI's client reads them."""

import json
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessage

from service.api import pacing
from service.settings import Settings
from tests.service.api.test_pace import Clock
from tests.support import Publish, serving

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 14}},
    "required": ["city", "days"],
}
SCHEMAS: dict[str, Any] = {"get_weather": WEATHER, "now": {"type": "object", "properties": {}}}
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "description": "The forecast", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
ASKED: Any = [{"role": "user", "content": "What will the weather be?"}]


@pytest.fixture
def peer(client: httpx.Client) -> OpenAI:
    return OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)


def replied(peer: OpenAI, **fields: Any) -> ChatCompletionMessage:
    fields = {"model": "tiny", "messages": ASKED, "tools": TOOLS, "seed": 1, **fields}
    choice = peer.chat.completions.create(**fields).choices[0]
    assert (choice.finish_reason == "tool_calls") == bool(choice.message.tool_calls)
    message: ChatCompletionMessage = choice.message
    return message


def calls(message: ChatCompletionMessage) -> list[tuple[str, dict[str, Any]]]:
    """(Name, arguments) of each call, all of them valid."""
    found = []
    for call in message.tool_calls or []:
        assert call.type == "function"
        arguments = json.loads(call.function.arguments)
        jsonschema.validate(arguments, SCHEMAS[call.function.name])
        found.append((call.function.name, arguments))
    return found


def test_calls_are_valid_and_of_every_tool(peer: OpenAI) -> None:
    found = [calls(replied(peer, tool_choice="required", seed=seed)) for seed in range(20)]
    assert {len(made) for made in found} == {1}
    assert {name for made in found for name, _ in made} == {"get_weather", "now"}


def test_a_named_tool_is_called(peer: OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "now"}}
    assert {json.dumps(calls(replied(peer, tool_choice=named, seed=seed))) for seed in range(5)} == {'[["now", {}]]'}
    allowed: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    assert calls(replied(peer, tool_choice=allowed)) == [("now", {})]


def test_several_calls_come_where_they_are_allowed(peer: OpenAI) -> None:
    found = [replied(peer, tool_choice="required", parallel_tool_calls=True, seed=seed) for seed in range(20)]
    assert {len(calls(message)) for message in found} == {1, 2, 3}
    for message in found:
        assert len({call.id for call in message.tool_calls or []}) == len(message.tool_calls or [])


def test_calls_that_are_whole_at_the_limit_are_not_cut_off(peer: OpenAI) -> None:
    """The shortest way to an end leads there, and one more call could have followed."""
    for seed in range(5):
        options: Any = {"model": "tiny", "messages": ASKED, "tools": TOOLS, "seed": seed, "max_tokens": 60}
        options |= {"tool_choice": "required", "parallel_tool_calls": True}
        whole = peer.chat.completions.create(**options).choices[0]
        assert (whole.finish_reason, bool(calls(whole.message))) == ("tool_calls", True)
        streamed = [chunk.choices[0].finish_reason for chunk in peer.chat.completions.create(**options, stream=True)]
        assert streamed[-1] == "tool_calls"


@pytest.mark.slow
def test_a_stream_has_the_log_probabilities_of_all_characters_of_a_call(peer: OpenAI) -> None:
    fields: dict[str, Any] = {"model": "tiny", "messages": ASKED, "tools": TOOLS, "seed": 1, "tool_choice": "required"}
    fields |= {"logprobs": True, "extra_body": {"pace": 200}}  # in many parts, so that some hold a piece of a tool's name alone
    whole = peer.chat.completions.create(**fields)
    streamed = [chunk.choices[0].logprobs for chunk in peer.chat.completions.create(**fields, stream=True) if chunk.choices]
    content = [entry for logprobs in streamed if logprobs for entry in logprobs.content or []]
    assert len(content) == whole.usage.completion_tokens
    assert content == whole.choices[0].logprobs.content


def test_the_same_seed_gives_the_same_calls_with_the_same_ids(peer: OpenAI) -> None:
    first, second = (replied(peer, tool_choice="required", seed=9) for _ in range(2))
    assert first == second
    assert first != replied(peer, tool_choice="required", seed=10)


def test_a_stream_holds_the_call_in_parts(peer: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "asyncio", Clock(0))  # a late reader gets more at once
    whole = replied(peer, tool_choice="required", parallel_tool_calls=True, seed=4, extra_body={"pace": 500})
    options: Any = {"model": "tiny", "messages": ASKED, "tools": TOOLS, "seed": 4, "extra_body": {"pace": 500}}
    with peer.chat.completions.stream(tool_choice="required", parallel_tool_calls=True, **options) as stream:
        parts = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        message = stream.get_final_completion().choices[0].message
    assert [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or []] == [
        (c.id, c.function.name, c.function.arguments) for c in whole.tool_calls or [] if c.type == "function"
    ]
    assert len(parts) > len(message.tool_calls or []), "arguments arrive as they are written"


# --- auto


def test_auto_answers_with_a_text_unless_a_call_is_asked_for(peer: OpenAI) -> None:
    plain = replied(peer, tools=openai.NOT_GIVEN, max_tokens=30)
    for choice in ("auto", "none"):
        assert replied(peer, tool_choice=choice, max_tokens=30) == plain
    called = replied(peer, extra_headers={"X-Folio-Tools": "call"})
    assert calls(called)
    assert calls(replied(peer, extra_headers={"X-Folio-Tools": "call now"})) == [("now", {})]


def test_an_agents_loop_ends(peer: OpenAI) -> None:
    """Every request asks for calls, as a client's default header does. After the result of a call comes a text."""
    headers = {"X-Folio-Tools": "call get_weather"}

    def run() -> list[Any]:
        messages: list[Any] = [*ASKED]
        while True:
            message = replied(peer, messages=messages, extra_headers=headers, max_tokens=200)
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return messages
            messages += [{"role": "tool", "tool_call_id": call.id, "content": "Sunny"} for call in message.tool_calls]

    first = run()
    assert [message["role"] for message in first] == ["user", "assistant", "tool", "assistant"]
    assert first == run()


def test_the_server_can_be_set_to_call(tmp_path: Any, publish: Publish) -> None:
    publish()
    with serving(Settings(models_dir=tmp_path, default_model="tiny", auto_tools="call", seed=3)) as (_, client):
        peer = OpenAI(base_url=f"{client.base_url}/v1", api_key="none")
        assert calls(replied(peer, seed=openai.NOT_GIVEN))
        assert replied(peer, seed=openai.NOT_GIVEN) == replied(peer, seed=3), "the server's seed is that of requests without one"
        assert not calls(replied(peer, extra_headers={"X-Folio-Tools": "text"}, max_tokens=20))


# --- the rest


def test_the_former_names_of_tools(peer: OpenAI) -> None:
    functions: Any = [tool["function"] for tool in TOOLS]
    fields: Any = {"model": "tiny", "messages": ASKED, "functions": functions, "seed": 1}
    choice = peer.chat.completions.create(function_call={"name": "get_weather"}, **fields).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call is not None
    jsonschema.validate(json.loads(choice.message.function_call.arguments), WEATHER)
    history: Any = [*ASKED, choice.message, {"role": "function", "name": "get_weather", "content": "Sunny"}]
    assert peer.chat.completions.create(**{**fields, "messages": history}, max_tokens=20).choices[0].message.content


def test_parse_gives_what_the_model_says(peer: OpenAI) -> None:
    from pydantic import BaseModel

    class Order(BaseModel):
        dish: str
        count: int | None
        extras: list[str]

    parsed = peer.chat.completions.parse(model="tiny", messages=ASKED, response_format=Order, seed=1).choices[0].message.parsed
    assert isinstance(parsed, Order)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "absent"}}}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}], "tool_choice": "required"},
            "tools",
        ),
        ({"extra_headers": {"X-Folio-Tools": "call absent"}}, "X-Folio-Tools"),
        ({"extra_headers": {"X-Folio-Tools": "dance"}}, "X-Folio-Tools"),
        ({"tool_choice": "required", "max_tokens": 5}, "tools"),
    ],
)
def test_what_cannot_be_called_is_refused_with_its_field(peer: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        replied(peer, **fields)
    assert raised.value.param == param
