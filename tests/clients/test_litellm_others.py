"""LiteLLM's SDK, with its providers for Anthropic's and Ollama's protocols."""

from typing import Any

import litellm
import pytest

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, MESSAGES, SEED, embedding, reply
from tests.clients.tools import CALL, Weather

TOOL = {"type": "function", "function": {"name": "forecast", "parameters": Weather.model_json_schema()}}


def options(server: Server, provider: str) -> dict[str, Any]:
    allowed = {"allowed_openai_params": ["seed"]} if provider == "anthropic" else {}
    return {"model": f"{provider}/{server.model}", "api_base": server.url, "api_key": KEY, "seed": SEED, **allowed}


@pytest.mark.parametrize("provider", ["anthropic", "ollama_chat"])
def test_a_chat_returns_the_text_at_once_and_streamed(server: Server, provider: str) -> None:
    fields: Any = {"messages": MESSAGES, "max_tokens": LENGTH, **options(server, provider)}
    answer = litellm.completion(**fields)
    assert answer.choices[0].message.content == reply(server)
    assert answer.usage.completion_tokens == len(reply(server))
    chunks = litellm.completion(**fields, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == reply(server)


@pytest.mark.parametrize("provider", ["anthropic", "ollama_chat", "ollama"])
def test_structured_output_is_what_the_schema_says(server: Server, provider: str) -> None:
    fields: Any = {"messages": MESSAGES, "max_tokens": 400, **options(server, provider)}
    answer = litellm.completion(**fields, response_format=Weather)
    Weather.model_validate_json(answer.choices[0].message.content)


@pytest.mark.parametrize("provider", ["anthropic", "ollama_chat"])
def test_a_call_is_what_the_schema_says(server: Server, provider: str) -> None:
    fields: Any = {"messages": MESSAGES, "max_tokens": 400, **options(server, provider)}
    (call,) = litellm.completion(**fields, tools=[TOOL], extra_headers=CALL).choices[0].message.tool_calls
    Weather.model_validate_json(call.function.arguments)


@pytest.mark.parametrize("provider", ["anthropic", "ollama_chat"])
def test_an_unknown_model_is_an_error_that_names_it(server: Server, provider: str) -> None:
    with pytest.raises(Exception, match="llama3") as raised:
        litellm.completion(messages=MESSAGES, **{**options(server, provider), "model": f"{provider}/llama3"})
    assert getattr(raised.value, "status_code", None) == 404


def test_an_embedding_is_that_of_the_service(server: Server) -> None:
    found = litellm.embedding(model=f"ollama/{server.model}", input=["To be"], api_base=server.url)
    assert found.data[0]["embedding"] == embedding(server, "To be")
