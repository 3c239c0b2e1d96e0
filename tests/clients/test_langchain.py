"""LangChain's models for OpenAI's protocol."""

import asyncio

from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import SecretStr

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, QUESTION, SEED, continuation, embedding, reply


def test_a_chat_model_returns_the_text_at_once_streamed_and_async(server: Server) -> None:
    model = ChatOpenAI(base_url=server.v1, api_key=SecretStr(KEY), model=server.model, max_tokens=LENGTH, seed=SEED)
    expected = reply(server)
    assert model.invoke(QUESTION).content == expected
    assert "".join(str(chunk.content) for chunk in model.stream(QUESTION)) == expected
    assert asyncio.run(model.ainvoke(QUESTION)).content == expected


def test_a_completion_model_returns_the_text(server: Server) -> None:
    model = OpenAI(base_url=server.v1, api_key=SecretStr(KEY), model=server.model, max_tokens=LENGTH, seed=SEED, temperature=1)
    assert model.invoke("ROMEO: ") == continuation(server, "ROMEO: ")


def test_embeddings_are_those_of_the_service(server: Server) -> None:
    # Otherwise texts become tokens of one of OpenAI's models first.
    embeddings = OpenAIEmbeddings(
        openai_api_base=server.v1, openai_api_key=SecretStr(KEY), model=server.model, check_embedding_ctx_length=False
    )
    assert embeddings.embed_documents(["To be", QUESTION]) == [embedding(server, "To be"), embedding(server, QUESTION)]
