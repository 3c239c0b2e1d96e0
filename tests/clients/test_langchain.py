"""LangChain's models for OpenAI's protocol."""

import asyncio

from langchain_openai import ChatOpenAI, OpenAI
from pydantic import SecretStr

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, QUESTION, SEED, continuation, reply


def test_a_chat_model_returns_the_text_at_once_streamed_and_async(server: Server) -> None:
    model = ChatOpenAI(base_url=server.v1, api_key=SecretStr(KEY), model=server.model, max_tokens=LENGTH, seed=SEED)
    expected = reply(server)
    assert model.invoke(QUESTION).content == expected
    assert "".join(str(chunk.content) for chunk in model.stream(QUESTION)) == expected
    assert asyncio.run(model.ainvoke(QUESTION)).content == expected


def test_a_completion_model_returns_the_text(server: Server) -> None:
    model = OpenAI(base_url=server.v1, api_key=SecretStr(KEY), model=server.model, max_tokens=LENGTH, seed=SEED, temperature=1)
    assert model.invoke("ROMEO: ") == continuation(server, "ROMEO: ")
