"""Ollama's client: sync, async, streamed, with tools and schemas, and its errors."""

import asyncio
from collections.abc import Iterable
from typing import Any

import ollama
import pytest

from tests.clients.processes import Server
from tests.clients.texts import LENGTH, MESSAGES, QUESTION, SEED, continuation, embedding, reply
from tests.clients.tools import CALL, Forecast, Weather

OPTIONS = {"seed": SEED, "num_predict": LENGTH}


@pytest.fixture
def client(server: Server) -> ollama.Client:
    return ollama.Client(host=server.url)


def joined(parts: Iterable[ollama.ChatResponse]) -> ollama.Message:
    """The message of a stream, however the stream was cut."""
    messages = [part.message for part in parts]
    calls = [call for message in messages for call in message.tool_calls or ()]
    content = "".join(message.content or "" for message in messages)
    return ollama.Message(role="assistant", content=content, tool_calls=calls or None)


def test_a_chat_streamed_or_not_has_the_text(server: Server, client: ollama.Client) -> None:
    answer = client.chat(server.model, MESSAGES, options=OPTIONS)
    assert answer.message.content == reply(server)
    assert answer.eval_count == len(reply(server))
    assert answer.total_duration >= answer.eval_duration > 0
    *parts, last = client.chat(f"{server.model}:latest", MESSAGES, options=OPTIONS, stream=True)
    assert "".join(part.message.content for part in parts) == reply(server)
    assert (last.done, last.done_reason, last.eval_count) == (True, answer.done_reason, answer.eval_count)


def test_a_prompt_is_answered_or_continued(server: Server, client: ollama.Client) -> None:
    assert client.generate(server.model, QUESTION, options=OPTIONS).response == reply(server)
    assert client.generate(server.model, "ROMEO: ", raw=True, options=OPTIONS).response == continuation(server, "ROMEO: ")
    parts = client.generate(server.model, QUESTION, options=OPTIONS, stream=True)
    assert "".join(part.response for part in parts) == reply(server)
    assert client.generate(server.model).done_reason == "load"


def test_the_asynchronous_client_gets_the_same(server: Server) -> None:
    async def run() -> list[str]:
        client = ollama.AsyncClient(host=server.url)
        answer = await client.chat(server.model, MESSAGES, options=OPTIONS)
        parts = await client.chat(server.model, MESSAGES, options=OPTIONS, stream=True)
        return [answer.message.content, "".join([part.message.content async for part in parts])]

    assert asyncio.run(run()) == [reply(server)] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_loop_ends_twice_with_the_same_messages(server: Server, stream: bool) -> None:
    def run() -> tuple[list[tuple[str, int]], list[Any]]:
        tool, client, messages = Forecast(), ollama.Client(host=server.url, headers=CALL), list[Any](MESSAGES)
        for _ in range(5):
            options = {**OPTIONS, "num_predict": 400}
            answer = client.chat(server.model, messages, tools=[tool.forecast], options=options, stream=stream)
            message = joined(answer) if stream else answer.message
            messages.append(message)
            if not message.tool_calls:
                break
            for call in message.tool_calls:
                result = tool.forecast(**call.function.arguments)
                messages.append({"role": "tool", "tool_name": call.function.name, "content": result})
        return tool.calls, messages

    calls, messages = run()
    assert (len(calls), len(messages)) == (1, 4)
    assert messages[-1].content
    assert run() == (calls, messages)


def test_an_answer_is_what_the_schema_says(server: Server, client: ollama.Client) -> None:
    options = {**OPTIONS, "num_predict": 400}
    answer = client.chat(server.model, MESSAGES, format=Weather.model_json_schema(), options=options)
    Weather.model_validate_json(answer.message.content)


def test_models_are_listed_and_embed(server: Server, client: ollama.Client) -> None:
    assert [model.model for model in client.list().models] == [f"{server.model}:latest"]
    assert [model.model for model in client.ps().models] == [f"{server.model}:latest"]
    assert "tools" in client.show(server.model).capabilities
    assert client.embed(server.model, ["To be", QUESTION]).embeddings == [embedding(server, "To be"), embedding(server, QUESTION)]
    assert client.embeddings(server.model, QUESTION).embedding == embedding(server, QUESTION)


def test_errors_are_the_clients_own(server: Server, client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="llama3") as raised:
        client.chat("llama3", MESSAGES)
    assert raised.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="llama3"):
        list(client.chat("llama3", MESSAGES, stream=True))
    with pytest.raises(ollama.ResponseError, match=r"options\.temperature"):
        client.chat(server.model, MESSAGES, options={"temperature": -1})
    with pytest.raises(ollama.ResponseError, match="/api/pull"):
        client.pull("llama3")
