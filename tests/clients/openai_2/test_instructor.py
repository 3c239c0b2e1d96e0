"""Instructor, in the modes that send a schema. The others describe it in words, which this model does not understand."""

from typing import Any

import instructor
import pytest
from openai import OpenAI

from tests.clients.processes import Server
from tests.clients.texts import KEY, MESSAGES, SEED
from tests.clients.tools import Weather


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA])
def test_a_response_model_is_returned_at_the_first_try(server: Server, mode: Any) -> None:
    client = instructor.from_openai(OpenAI(base_url=server.v1, api_key=KEY), mode=mode)
    given: Any = {"model": server.model, "messages": MESSAGES, "seed": SEED, "response_model": Weather, "max_retries": 0}
    found = client.chat.completions.create(**given)
    assert isinstance(found, Weather)
    assert client.chat.completions.create(**given).model_dump() == found.model_dump()
