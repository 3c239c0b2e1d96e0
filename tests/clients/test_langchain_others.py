"""LangChain's models for Anthropic's and Ollama's protocols."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from pydantic import SecretStr

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, MESSAGES, QUESTION, SEED, embedding, reply
from tests.clients.tools import CALL, Forecast, Weather


def anthropics(server: Server, length: int = LENGTH) -> Any:
    return ChatAnthropic(
        base_url=server.url,
        api_key=SecretStr(KEY),
        model=server.model,
        max_tokens=length,
        default_headers=CALL,
        model_kwargs={"extra_body": {"seed": SEED}},
    )


def ollamas(server: Server, length: int = LENGTH) -> Any:
    return ChatOllama(
        base_url=server.url,
        model=server.model,
        seed=SEED,
        num_predict=length,
        validate_model_on_init=True,
        client_kwargs={"headers": CALL},
    )


@pytest.mark.parametrize("model_of", [anthropics, ollamas])
def test_a_chat_model_returns_the_text_at_once_streamed_and_async(server: Server, model_of: Callable[[Server], Any]) -> None:
    model, expected = model_of(server), reply(server)
    assert model.invoke(QUESTION).content == expected
    assert "".join(str(chunk.content) for chunk in model.stream(QUESTION)) == expected
    assert asyncio.run(model.ainvoke(QUESTION)).content == expected


@pytest.mark.parametrize(
    ("model_of", "method"),
    [(anthropics, "json_schema"), (anthropics, "function_calling"), (ollamas, "json_schema")],
)
def test_structured_output_is_what_the_schema_says(server: Server, model_of: Callable[..., Any], method: str) -> None:
    structured = model_of(server, 400).with_structured_output(Weather, method=method)
    found = structured.invoke(QUESTION)
    assert isinstance(found, Weather)
    assert structured.invoke(QUESTION) == found


def test_ollamas_client_sends_no_bounds_of_a_tools_arguments(server: Server) -> None:
    (call,) = ollamas(server, 400).bind_tools([Weather]).invoke(QUESTION).tool_calls
    assert call["args"].keys() == Weather.model_fields.keys()
    assert call["args"]["sky"] in ("clear", "rain")


@pytest.mark.parametrize("model_of", [anthropics, ollamas])
def test_an_agent_calls_its_tool_and_ends_twice_with_the_same_messages(server: Server, model_of: Callable[..., Any]) -> None:
    def run() -> tuple[list[tuple[str, int]], list[tuple[str, str]]]:
        tool = Forecast()
        messages = create_agent(model_of(server, 400), tools=[tool.forecast]).invoke({"messages": MESSAGES})["messages"]
        return tool.calls, [(message.type, message.text) for message in messages]

    calls, messages = run()
    assert len(calls) == 1
    assert [kind for kind, _ in messages] == ["human", "ai", "tool", "ai"]
    assert messages[-1][1]
    assert run() == (calls, messages)


def test_ollamas_other_models(server: Server) -> None:
    model = OllamaLLM(base_url=server.url, model=server.model, seed=SEED, num_predict=LENGTH)
    assert model.invoke(QUESTION) == reply(server)
    embeddings = OllamaEmbeddings(base_url=server.url, model=server.model)
    assert embeddings.embed_query(QUESTION) == embedding(server, QUESTION)
