"""AutoGen's assistant with its client for OpenAI's protocol."""

import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, QUESTION, SEED, reply

MODEL = ModelInfo(vision=False, function_calling=False, json_output=False, family="unknown", structured_output=False)


def test_an_assistant_answers(server: Server) -> None:
    async def run() -> object:
        client = OpenAIChatCompletionClient(
            model=server.model, base_url=server.v1, api_key=KEY, max_tokens=LENGTH, seed=SEED, model_info=MODEL
        )
        answer = await AssistantAgent("juliet", client, system_message=None).run(task=QUESTION)
        await client.close()
        return answer.messages[-1].content

    assert asyncio.run(run()) == reply(server, [{"role": "user", "name": "user", "content": QUESTION}])
