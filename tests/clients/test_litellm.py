"""LiteLLM's SDK, with its providers for OpenAI's protocol."""

from typing import Any

import litellm
import pytest

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, MESSAGES, SEED, continuation, embedding, reply
from tests.clients.tools import Weather


def options(server: Server) -> dict[str, Any]:
    return {"api_base": server.v1, "api_key": KEY, "max_tokens": LENGTH, "seed": SEED}


def test_chat_and_completion_return_the_text(server: Server) -> None:
    chat = litellm.completion(model=f"openai/{server.model}", messages=MESSAGES, **options(server))
    assert chat.choices[0].message.content == reply(server)
    text = litellm.text_completion(model=f"text-completion-openai/{server.model}", prompt="ROMEO: ", **options(server))
    assert text.choices[0].text == continuation(server, "ROMEO: ")


def test_a_stream_returns_the_text(server: Server) -> None:
    chunks = litellm.completion(model=f"openai/{server.model}", messages=MESSAGES, stream=True, **options(server))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == reply(server)


def test_an_unknown_model_is_a_not_found_error(server: Server) -> None:
    with pytest.raises(litellm.NotFoundError, match="gpt-4o-mini"):
        litellm.completion(model="openai/gpt-4o-mini", messages=MESSAGES, **options(server))


def test_an_embedding_is_that_of_the_service(server: Server) -> None:
    found = litellm.embedding(model=f"openai/{server.model}", input=["To be"], api_base=server.v1, api_key=KEY)
    assert found.data[0]["embedding"] == embedding(server, "To be")


def test_structured_output_and_calls_are_what_the_schema_says(server: Server) -> None:
    answer = litellm.completion(
        model=f"openai/{server.model}", messages=MESSAGES, response_format=Weather, api_base=server.v1, api_key=KEY, seed=SEED
    )
    Weather.model_validate_json(answer.choices[0].message.content)
    tool = {"type": "function", "function": {"name": "forecast", "parameters": Weather.model_json_schema()}}
    given = {"tools": [tool], "tool_choice": "required", "api_base": server.v1, "api_key": KEY, "seed": SEED}
    (call,) = litellm.completion(model=f"openai/{server.model}", messages=MESSAGES, **given).choices[0].message.tool_calls
    Weather.model_validate_json(call.function.arguments)
