"""LangChain's models for OpenAI's protocol."""

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import SecretStr

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, MESSAGES, QUESTION, SEED, continuation, embedding, reply
from tests.clients.tools import CALL, Forecast, Weather


def test_a_chat_model_returns_the_text_at_once_streamed_and_async(server: Server) -> None:
    model = ChatOpenAI(base_url=server.v1, api_key=SecretStr(KEY), model=server.model, max_tokens=LENGTH, seed=SEED)
    expected = reply(server)
    assert model.invoke(QUESTION).content == expected
    assert "".join(str(chunk.content) for chunk in model.stream(QUESTION)) == expected
    assert asyncio.run(model.ainvoke(QUESTION)).content == expected


def test_a_chat_model_converses_by_either_operation_of_openai(server: Server) -> None:
    messages = [SystemMessage("A wood."), HumanMessage("Who goes?"), AIMessage("Friend."), HumanMessage("Stand!")]
    for responses in (False, True):
        model = ChatOpenAI(
            base_url=server.v1,
            api_key=SecretStr(KEY),
            model=server.model,
            temperature=0,
            max_tokens=LENGTH,
            use_responses_api=responses,
        )
        answer = model.invoke(messages)
        assert answer.text
        assert "".join(chunk.text for chunk in model.stream(messages)) == answer.text
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_tokens"] == len(answer.text)


def test_a_completion_model_returns_the_text(server: Server) -> None:
    model = OpenAI(base_url=server.v1, api_key=SecretStr(KEY), model=server.model, max_tokens=LENGTH, seed=SEED, temperature=1)
    assert model.invoke("ROMEO: ") == continuation(server, "ROMEO: ")


def test_embeddings_are_those_of_the_service(server: Server) -> None:
    # Otherwise texts become tokens of one of OpenAI's models first.
    embeddings = OpenAIEmbeddings(
        openai_api_base=server.v1, openai_api_key=SecretStr(KEY), model=server.model, check_embedding_ctx_length=False
    )
    assert embeddings.embed_documents(["To be", QUESTION]) == [embedding(server, "To be"), embedding(server, QUESTION)]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_what_the_schema_says(server: Server, method: Any) -> None:
    model = ChatOpenAI(base_url=server.v1, api_key=SecretStr(KEY), model=server.model, seed=SEED)
    structured = model.with_structured_output(Weather, method=method)
    found = structured.invoke(QUESTION)
    assert isinstance(found, Weather)
    assert structured.invoke(QUESTION) == found


def test_an_agent_calls_its_tool_and_ends_twice_with_the_same_messages(server: Server) -> None:
    def run() -> tuple[list[tuple[str, int]], list[tuple[str, Any]]]:
        tool = Forecast()
        model = ChatOpenAI(
            base_url=server.v1,
            api_key=SecretStr(KEY),
            model=server.model,
            seed=SEED,
            default_headers=CALL,
            max_completion_tokens=400,
        )
        messages = create_agent(model, tools=[tool.forecast]).invoke({"messages": MESSAGES})["messages"]
        return tool.calls, [(message.type, message.content) for message in messages]

    calls, messages = run()
    assert len(calls) == 1
    assert [kind for kind, _ in messages] == ["human", "ai", "tool", "ai"]
    assert messages[-1][1]
    assert run() == (calls, messages)
