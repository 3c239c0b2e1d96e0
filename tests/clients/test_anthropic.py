"""Anthropic's client: sync, async, streamed, with tools and schemas, and its errors."""

import asyncio
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic, beta_tool

from tests.clients.processes import Server, service
from tests.clients.texts import KEY, LENGTH, MESSAGES, SEED, reply
from tests.clients.tools import CALL, Forecast, Weather

SECRET = "correct-horse-battery"
TOOL: Any = {"name": "forecast", "description": "The weather", "input_schema": Weather.model_json_schema()}


@pytest.fixture
def client(server: Server) -> Anthropic:
    return Anthropic(base_url=server.url, api_key=KEY)


@pytest.fixture
def asked(server: Server) -> dict[str, Any]:
    return {"model": server.model, "max_tokens": LENGTH, "messages": MESSAGES, "extra_body": {"seed": SEED}}


def test_a_message_streamed_or_not_has_the_text(server: Server, client: Anthropic, asked: dict[str, Any]) -> None:
    message = client.messages.create(**asked)
    assert message.content[0].text == reply(server)
    assert message.usage.output_tokens == len(reply(server))
    assert message._request_id
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == reply(server)
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage) == (message.stop_reason, message.usage)
    assert final.content[0].text == reply(server)
    parts = client.messages.create(**asked, stream=True)
    assert [part.type for part in parts][-2:] == ["message_delta", "message_stop"]


def test_the_asynchronous_client_gets_the_same(server: Server, asked: dict[str, Any]) -> None:
    async def run() -> list[str]:
        async with AsyncAnthropic(base_url=server.url, api_key=KEY) as client:
            message = await client.messages.create(**asked)
            async with client.messages.stream(**asked) as stream:
                return [message.content[0].text, "".join([text async for text in stream.text_stream])]

    assert asyncio.run(run()) == [reply(server)] * 2


def test_a_stop_sequence_is_named(server: Server, client: Anthropic, asked: dict[str, Any]) -> None:
    stop = reply(server)[20:24]
    message = client.messages.create(**asked, stop_sequences=["no such", stop])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    assert message.content[0].text == reply(server)[: reply(server).index(stop)]


def test_tokens_are_counted(client: Anthropic, asked: dict[str, Any], server: Server) -> None:
    counted = client.messages.count_tokens(model=server.model, messages=MESSAGES, system="Verse.", tools=[TOOL])
    assert counted.input_tokens == client.messages.create(**asked, system="Verse.").usage.input_tokens


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "forecast"}])
def test_a_call_is_valid_streamed_or_not(client: Anthropic, asked: dict[str, Any], choice: Any) -> None:
    fields: Any = {**asked, "max_tokens": 400, "tools": [TOOL], "tool_choice": choice}
    message = client.messages.create(**fields)
    (call,) = message.content
    assert (message.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "forecast")
    Weather.model_validate(call.input)
    with client.messages.stream(**fields) as stream:
        (streamed,) = stream.get_final_message().content
    assert (streamed.id, streamed.input) == (call.id, call.input)


def test_the_tool_runner_calls_and_ends_twice_with_the_same_messages(server: Server) -> None:
    def run() -> tuple[list[tuple[str, int]], list[Any]]:
        tool = Forecast()

        @beta_tool
        def forecast(city: str, days: int) -> str:
            """Returns the weather in a city."""
            return tool.forecast(city, days)

        client = Anthropic(base_url=server.url, api_key=KEY, default_headers=CALL)
        runner = client.beta.messages.tool_runner(
            model=server.model, max_tokens=400, messages=MESSAGES, tools=[forecast], extra_body={"seed": SEED}
        )
        return tool.calls, [message.to_dict()["content"] for message in runner]

    calls, messages = run()
    assert len(calls) == 1
    assert [[block["type"] for block in content] for content in messages] == [["tool_use"], ["text"]]
    assert run() == (calls, messages)


def test_a_parsed_answer_is_what_the_schema_says(client: Anthropic, asked: dict[str, Any]) -> None:
    asked["max_tokens"] = 400
    found = client.messages.parse(**asked, output_format=Weather).parsed_output
    assert isinstance(found, Weather)
    assert client.messages.parse(**asked, output_format=Weather).parsed_output == found
    with client.messages.stream(**asked, output_format=Weather) as stream:
        assert stream.get_final_message().parsed_output == found


def test_models_are_listed(server: Server, client: Anthropic) -> None:
    assert [model.id for model in client.models.list()] == [server.model]
    assert client.models.retrieve(server.model).display_name == server.model


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_clients_own(server: Server, client: Anthropic, asked: dict[str, Any], stream: bool) -> None:
    with pytest.raises(anthropic.NotFoundError, match="claude-opus") as raised:
        client.messages.create(**{**asked, "model": "claude-opus"}, stream=stream)
    assert raised.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="web_search_20250305"):
        client.messages.create(**asked, tools=[{"type": "web_search_20250305", "name": "web_search"}], stream=stream)
    with pytest.raises(anthropic.RequestTooLargeError):
        client.messages.create(**asked, system="a" * 3_000_000, stream=stream)
    with pytest.raises(anthropic.NotFoundError, match="base URL"):
        Anthropic(base_url=server.v1, api_key=KEY).messages.create(**asked, stream=stream)


def test_the_key_is_the_clients(asked: dict[str, Any]) -> None:
    with service(SERVICE_API_KEYS=SECRET) as server:
        assert Anthropic(base_url=server.url, api_key=SECRET).messages.create(**asked).content
        assert Anthropic(base_url=server.url, auth_token=SECRET).messages.create(**asked).content
        with pytest.raises(anthropic.AuthenticationError, match="API key"):
            Anthropic(base_url=server.url, api_key="wrong").messages.create(**asked)
