"""Pydantic AI's agent with its model for OpenAI's chat completions."""

import asyncio
from typing import Any

import pytest
from pydantic_ai import Agent, ModelSettings, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, QUESTION, SEED, reply
from tests.clients.tools import CALL, Forecast, Weather


def model_of(server: Server) -> OpenAIChatModel:
    return OpenAIChatModel(server.model, provider=OpenAIProvider(base_url=server.v1, api_key=KEY))


def test_an_agent_answers_at_once_and_streamed(server: Server) -> None:
    agent = Agent(model_of(server), model_settings=ModelSettings(max_tokens=LENGTH, seed=SEED))

    async def run() -> tuple[str, str]:
        answer = await agent.run(QUESTION)
        async with agent.run_stream(QUESTION) as stream:
            return answer.output, "".join([part async for part in stream.stream_text(delta=True)])

    assert asyncio.run(run()) == (reply(server), reply(server))


@pytest.mark.parametrize("output_type", [Weather, NativeOutput(Weather)])
def test_an_output_type_is_returned(server: Server, output_type: Any) -> None:
    agent = Agent(model_of(server), output_type=output_type, model_settings=ModelSettings(seed=SEED))
    found = agent.run_sync(QUESTION).output
    assert isinstance(found, Weather)
    assert agent.run_sync(QUESTION).output == found


def test_an_agent_calls_its_tool_and_ends_twice_with_the_same_text(server: Server) -> None:
    def run() -> tuple[list[tuple[str, int]], list[str], str]:
        tool = Forecast()
        settings = ModelSettings(seed=SEED, max_tokens=400, extra_headers=CALL)
        answer = Agent(model_of(server), tools=[tool.forecast], model_settings=settings).run_sync(QUESTION)
        return tool.calls, [part.part_kind for message in answer.all_messages() for part in message.parts], answer.output

    calls, parts, text = run()
    assert len(calls) == 1
    assert parts == ["user-prompt", "tool-call", "tool-return", "text"]
    assert text
    assert run() == (calls, parts, text)
