"""Pydantic AI's agent with its model for OpenAI's chat completions."""

import asyncio

from pydantic_ai import Agent, ModelSettings
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, QUESTION, SEED, reply


def test_an_agent_answers_at_once_and_streamed(server: Server) -> None:
    model = OpenAIChatModel(server.model, provider=OpenAIProvider(base_url=server.v1, api_key=KEY))
    agent = Agent(model, model_settings=ModelSettings(max_tokens=LENGTH, seed=SEED))

    async def run() -> tuple[str, str]:
        answer = await agent.run(QUESTION)
        async with agent.run_stream(QUESTION) as stream:
            return answer.output, "".join([part async for part in stream.stream_text(delta=True)])

    assert asyncio.run(run()) == (reply(server), reply(server))
