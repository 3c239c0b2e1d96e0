"""OpenAI's Agents SDK with its model for chat completions."""

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner
from openai import AsyncOpenAI

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, MESSAGES, QUESTION, reply


def test_an_agent_answers(server: Server) -> None:
    client = AsyncOpenAI(base_url=server.v1, api_key=KEY)
    agent = Agent(
        name="Juliet",
        instructions="Speak in verse.",
        model=OpenAIChatCompletionsModel(model=server.model, openai_client=client),
        model_settings=ModelSettings(temperature=0, max_tokens=LENGTH),
    )
    expected = reply(server, [{"role": "system", "content": "Speak in verse."}, *MESSAGES], temperature=0)
    assert Runner.run_sync(agent, QUESTION).final_output == expected
