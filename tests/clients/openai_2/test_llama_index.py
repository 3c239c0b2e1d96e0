"""LlamaIndex's model for servers that speak OpenAI's protocol. Its OpenAI client is of version 2."""

import asyncio
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, QUESTION, SEED, continuation, reply
from tests.clients.tools import CALL, Forecast, Weather


def model(server: Server, *, chat: bool, max_tokens: int = LENGTH, **options: Any) -> OpenAILike:
    return OpenAILike(
        model=server.model,
        api_base=server.v1,
        api_key=KEY,
        is_chat_model=chat,
        is_function_calling_model=chat,
        max_tokens=max_tokens,
        temperature=1,
        additional_kwargs={"seed": SEED},
        **options,
    )


def test_a_chat_returns_the_text_at_once_streamed_and_async(server: Server) -> None:
    chat, messages = model(server, chat=True), [ChatMessage(role="user", content=QUESTION)]
    expected = reply(server)
    assert chat.chat(messages).message.content == expected
    assert "".join(chunk.delta or "" for chunk in chat.stream_chat(messages)) == expected
    assert asyncio.run(chat.achat(messages)).message.content == expected


def test_a_completion_returns_the_text(server: Server) -> None:
    assert model(server, chat=False).complete("ROMEO: ").text == continuation(server, "ROMEO: ")


def test_a_schema_is_filled(server: Server) -> None:
    assert isinstance(model(server, chat=True).structured_predict(Weather, PromptTemplate(QUESTION)), Weather)


def test_an_agent_calls_its_tool_and_ends_twice_with_the_same_text(server: Server) -> None:
    def run() -> tuple[list[tuple[str, int]], str]:
        tool = Forecast()
        chat = model(server, chat=True, max_tokens=400, default_headers=CALL)

        async def answer() -> str:
            return str(await FunctionAgent(tools=[tool.forecast], llm=chat).run(QUESTION))

        text = asyncio.run(answer())
        return sorted(tool.calls), text  # it allows several calls, and runs them at the same time

    calls, text = run()
    assert calls
    assert text
    assert run() == (calls, text)
