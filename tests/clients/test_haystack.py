"""Haystack's generator for OpenAI's chat completions."""

from typing import Any

from haystack.components.agents import Agent
from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.tools import create_tool_from_function
from haystack.utils import Secret

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, QUESTION, SEED, embedding, reply
from tests.clients.tools import CALL, Forecast, Weather


def generator(server: Server, options: dict[str, Any]) -> OpenAIChatGenerator:
    return OpenAIChatGenerator(
        api_base_url=server.v1, api_key=Secret.from_token(KEY), model=server.model, generation_kwargs=options
    )


def test_a_generator_returns_the_text_at_once_and_streamed(server: Server) -> None:
    parts: list[str] = []

    def collect(chunk: StreamingChunk) -> None:
        parts.append(chunk.content)

    one = generator(server, {"max_tokens": LENGTH, "seed": SEED})
    question = [ChatMessage.from_user(QUESTION)]
    assert one.run(question)["replies"][0].text == reply(server)
    assert one.run(question, streaming_callback=collect)["replies"][0].text == "".join(parts) == reply(server)


def test_an_embedder_returns_the_services_vector(server: Server) -> None:
    embedder = OpenAITextEmbedder(api_base_url=server.v1, api_key=Secret.from_token(KEY), model=server.model)
    assert embedder.run(QUESTION)["embedding"] == embedding(server, QUESTION)


def test_an_agent_calls_its_tool_and_ends_twice_with_the_same_text(server: Server) -> None:
    def run() -> tuple[list[tuple[str, int]], list[tuple[str, str | None]]]:
        tool = Forecast()
        options = {"max_tokens": 400, "seed": SEED, "extra_headers": CALL}
        agent = Agent(chat_generator=generator(server, options), tools=[create_tool_from_function(tool.forecast)])
        messages = agent.run(messages=[ChatMessage.from_user(QUESTION)])["messages"]
        return tool.calls, [(message.role.value, message.text) for message in messages]

    calls, messages = run()
    assert len(calls) == 1
    assert [role for role, _ in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[-1][1]
    assert run() == (calls, messages)


def test_a_schema_gives_its_json(server: Server) -> None:
    answer = generator(server, {"response_format": Weather, "seed": SEED}).run([ChatMessage.from_user(QUESTION)])
    Weather.model_validate_json(answer["replies"][0].text)
