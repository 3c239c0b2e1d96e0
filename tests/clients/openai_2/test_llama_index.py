"""LlamaIndex's model for servers that speak OpenAI's protocol. Its OpenAI client is of version 2."""

import asyncio

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, QUESTION, SEED, continuation, reply


def model(server: Server, *, chat: bool) -> OpenAILike:
    return OpenAILike(
        model=server.model,
        api_base=server.v1,
        api_key=KEY,
        is_chat_model=chat,
        max_tokens=LENGTH,
        temperature=1,
        additional_kwargs={"seed": SEED},
    )


def test_a_chat_returns_the_text_at_once_streamed_and_async(server: Server) -> None:
    chat, messages = model(server, chat=True), [ChatMessage(role="user", content=QUESTION)]
    expected = reply(server)
    assert chat.chat(messages).message.content == expected
    assert "".join(chunk.delta or "" for chunk in chat.stream_chat(messages)) == expected
    assert asyncio.run(chat.achat(messages)).message.content == expected


def test_a_completion_returns_the_text(server: Server) -> None:
    assert model(server, chat=False).complete("ROMEO: ").text == continuation(server, "ROMEO: ")
