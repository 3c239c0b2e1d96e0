"""Clients of /v1/responses: OpenAI's Agents SDK by default, Pydantic AI, and LiteLLM's bridges from other protocols."""

import asyncio
import json
from typing import Any

import litellm
from agents import Agent, ModelSettings, Runner, function_tool, set_default_openai_client
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import NativeOutput
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, MESSAGES, QUESTION, SEED, reply

CALL = {"X-Folio-Tools": "call"}
FIRST = ModelSettings(extra_headers=CALL, extra_body={"seed": SEED}, store=False)


@function_tool
def weather(town: str, warm: bool) -> str:
    """The weather of a town."""
    return f"{town} is {'warm' if warm else 'cold'}."


class Verdict(BaseModel):
    guilty: bool
    years: int


def agent(server: Server, **fields: Any) -> Agent[None]:
    set_default_openai_client(AsyncOpenAI(base_url=server.v1, api_key=KEY))
    return Agent(name="Juliet", instructions="Speak in verse.", model=server.model, model_settings=FIRST, **fields)


async def streamed(agent: Agent[None]) -> list[Any]:
    run = Runner.run_streamed(agent, QUESTION)
    async for _ in run.stream_events():
        pass
    return list(run.to_input_list())


def test_an_agents_loop_ends_twice_with_the_same_bytes(server: Server) -> None:
    runs = [Runner.run_sync(agent(server, tools=[weather]), QUESTION).to_input_list() for _ in range(2)]
    runs.append(asyncio.run(streamed(agent(server, tools=[weather]))))
    first, second, third = (json.dumps(run, sort_keys=True) for run in runs)
    assert first == second == third
    _, call, result, message = runs[0]
    assert set(json.loads(call["arguments"])) == {"town", "warm"}
    assert result["output"].endswith(("is warm.", "is cold."))
    assert message["content"][0]["text"]


def test_an_agents_answer_has_its_type(server: Server) -> None:
    assert isinstance(Runner.run_sync(agent(server, output_type=Verdict), QUESTION).final_output, Verdict)


def test_pydantic_ai_ends_a_loop_and_returns_a_type(server: Server) -> None:
    provider = OpenAIProvider(base_url=server.v1, api_key=KEY)
    settings: Any = {"extra_headers": CALL, "temperature": 0}
    pydantic_agent = PydanticAgent(OpenAIResponsesModel(server.model, provider=provider), model_settings=settings)

    @pydantic_agent.tool_plain
    def town(name: str) -> str:
        """Where a town is."""
        return f"{name} is in the north."

    run = pydantic_agent.run_sync(QUESTION)
    assert [type(part).__name__ for message in run.new_messages() for part in message.parts] == [
        "UserPromptPart",
        "ToolCallPart",
        "ToolReturnPart",
        "TextPart",
    ]
    assert isinstance(pydantic_agent.run_sync(QUESTION, output_type=NativeOutput(Verdict)).output, Verdict)


def options(server: Server) -> dict[str, Any]:
    return {"api_base": server.v1, "api_key": KEY, "temperature": 0}  # the bridges drop a seed


def test_litellm_returns_the_text(server: Server) -> None:
    fields: Any = {"model": f"openai/{server.model}", "input": QUESTION, "max_output_tokens": LENGTH, **options(server)}
    expected = reply(server, temperature=0)
    assert litellm.responses(**fields).output[0].content[0].text == expected
    events = litellm.responses(**fields, stream=True)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == expected


def test_litellms_bridge_from_chats_returns_the_text(server: Server) -> None:
    fields: Any = {"model": f"openai/responses/{server.model}", "messages": MESSAGES, "max_tokens": LENGTH, **options(server)}
    expected = reply(server, temperature=0)
    assert litellm.completion(**fields).choices[0].message.content == expected
    assert "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**fields, stream=True)) == expected


def test_litellms_bridge_from_anthropics_messages_returns_the_text(server: Server) -> None:
    fields: Any = {"model": f"openai/{server.model}", "messages": MESSAGES, "max_tokens": LENGTH, **options(server)}
    expected = reply(server, temperature=0)
    answer: Any = asyncio.run(litellm.anthropic.messages.acreate(**fields))
    assert answer["content"][0]["text"] == expected
