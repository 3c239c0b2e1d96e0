"""AutoGen's assistant with its client for OpenAI's protocol."""

import asyncio
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, QUESTION, SEED, reply
from tests.clients.tools import CALL, Forecast, Weather

MODEL = ModelInfo(vision=False, function_calling=True, json_output=True, family="unknown", structured_output=True)


def messages(server: Server, length: int = 400, **options: Any) -> list[Any]:
    """Of an assistant that is asked the question."""

    async def run() -> list[Any]:
        client = OpenAIChatCompletionClient(
            model=server.model,
            base_url=server.v1,
            api_key=KEY,
            max_tokens=length,
            seed=SEED,
            model_info=MODEL,
            default_headers=CALL,
        )
        answer = await AssistantAgent("juliet", client, system_message=None, **options).run(task=QUESTION)
        await client.close()
        return list(answer.messages)

    return asyncio.run(run())


def test_an_assistant_answers(server: Server) -> None:
    expected = reply(server, [{"role": "user", "name": "user", "content": QUESTION}])
    assert messages(server, LENGTH)[-1].content == expected


def test_an_output_type_is_returned(server: Server) -> None:
    assert isinstance(messages(server, output_content_type=Weather)[-1].content, Weather)


def test_an_assistant_calls_its_tool_and_ends_twice_with_the_same_text(server: Server) -> None:
    def run() -> tuple[list[tuple[str, int]], list[str], str]:
        tool = Forecast()
        found = messages(server, tools=[tool.forecast], reflect_on_tool_use=True)
        return tool.calls, [message.type for message in found], found[-1].content

    calls, kinds, text = run()
    assert len(calls) == 1
    assert kinds == ["TextMessage", "ToolCallRequestEvent", "ToolCallExecutionEvent", "TextMessage"]
    assert text
    assert run() == (calls, kinds, text)
