"""OpenAI's client: sync, async, streamed, and its errors."""

import asyncio
import math
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI, pydantic_function_tool

from tests.clients.processes import Server
from tests.clients.texts import MESSAGES, SEED
from tests.clients.tools import CALL, Weather

KEY = "none"


@pytest.fixture
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=server.v1, api_key=KEY)


@pytest.fixture
def asynchronous(server: Server) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=server.v1, api_key=KEY)


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["shakespeare"]
    assert client.models.retrieve("shakespeare").object == "model"


def test_a_completion_streamed_or_not_has_the_same_text(client: OpenAI) -> None:
    answer = client.completions.create(model="shakespeare", prompt="ROMEO: ", max_tokens=50, seed=1)
    assert len(answer.choices[0].text) == 50
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 50)
    stream = client.completions.create(model="shakespeare", prompt="ROMEO: ", max_tokens=50, seed=1, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_a_chat_streamed_or_not_sync_or_async_has_the_same_text(client: OpenAI, asynchronous: AsyncOpenAI) -> None:
    answer = client.chat.completions.create(
        model="shakespeare", messages=[{"role": "user", "content": "Who art thou?"}], max_tokens=1000, seed=1
    )
    text = answer.choices[0].message.content
    assert text
    assert answer.choices[0].finish_reason == "stop"  # the client's own stream raises an error for a text that was cut
    with client.chat.completions.stream(
        model="shakespeare", messages=[{"role": "user", "content": "Who art thou?"}], max_tokens=1000, seed=1
    ) as stream:
        assert stream.get_final_completion().choices[0].message.content == text

    async def read() -> str:
        chunks = await asynchronous.chat.completions.create(
            model="shakespeare",
            messages=[{"role": "user", "content": "Who art thou?"}],
            max_tokens=1000,
            seed=1,
            stream=True,
            stream_options={"include_usage": True},
        )
        parts = [chunk async for chunk in chunks]
        assert parts[-1].usage is not None
        assert parts[-1].usage.completion_tokens == answer.usage.completion_tokens  # type: ignore[union-attr]
        return "".join(part.choices[0].delta.content or "" for part in parts[:-1])

    assert asyncio.run(read()) == text


def test_a_model_that_is_not_there_is_a_not_found_error(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-4o-mini") as raised:
        client.completions.create(model="gpt-4o-mini", prompt="ROMEO: ")
    assert raised.value.code == "model_not_found"


def test_a_wrong_field_is_a_client_error_that_names_it(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="temperature") as raised:
        client.completions.create(model="shakespeare", prompt="ROMEO: ", temperature=-1)
    assert raised.value.status_code in (400, 422)


def test_embeddings_are_vectors_of_length_1_in_either_encoding(client: OpenAI, asynchronous: AsyncOpenAI) -> None:
    packed = client.embeddings.create(model="shakespeare", input=["To be", "or not to be"])
    assert [math.hypot(*one.embedding) for one in packed.data] == pytest.approx([1, 1])
    assert packed.usage.prompt_tokens == 17

    async def one() -> list[float]:
        answer = await asynchronous.embeddings.create(model="shakespeare", input="To be", encoding_format="float", dimensions=8)
        return answer.data[0].embedding

    shorter = asyncio.run(one())
    ratio = shorter[0] / packed.data[0].embedding[0]
    assert shorter == pytest.approx([ratio * value for value in packed.data[0].embedding[:8]])


def test_parse_returns_what_the_schema_says(client: OpenAI) -> None:
    def parsed() -> Weather | None:
        return (
            client.chat.completions.parse(model="shakespeare", messages=MESSAGES, response_format=Weather, seed=SEED)
            .choices[0]
            .message.parsed
        )

    found = parsed()
    assert isinstance(found, Weather)
    assert parsed() == found
    with client.chat.completions.stream(model="shakespeare", messages=MESSAGES, response_format=Weather, seed=SEED) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == found


def test_a_tool_is_called_streamed_or_not_and_its_result_answered(client: OpenAI) -> None:
    tools: Any = [pydantic_function_tool(Weather, name="forecast")]
    given: Any = {"model": "shakespeare", "messages": MESSAGES, "tools": tools, "seed": SEED, "extra_headers": CALL}
    message = client.chat.completions.parse(**given).choices[0].message
    (call,) = message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Weather)
    with client.chat.completions.stream(**given) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert (streamed.id, streamed.function) == (call.id, call.function)
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    given["messages"] = [*MESSAGES, message, result]
    answer = client.chat.completions.create(**given).choices[0]
    assert answer.finish_reason == "stop"
    assert answer.message.content
