"""Clients for Node, each run by a script of tests/clients/node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.processes import Server
from tests.clients.texts import LENGTH, QUESTION, SEED, embedding, reply
from tests.clients.tools import Weather

SCRIPTS = Path(__file__).parent / "node"

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="no npm here; on Debian: apt-get install npm")


def found(server: Server, script: str) -> dict[str, Any]:
    given = {"url": server.url, "model": server.model, "question": QUESTION, "seed": SEED, "length": LENGTH}
    done = subprocess.run(["node", SCRIPTS / script, json.dumps(given)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    "script", ["openai.mjs", "ai_sdk.mjs", "ai_sdk_responses.mjs", "anthropic.mjs", "langchain.mjs", "ollama.mjs"]
)
def test_texts_schemas_and_tools_twice_with_the_same_answers(server: Server, script: str) -> None:
    answers = found(server, script)
    options: dict[str, Any] = {"temperature": 0} if script == "ai_sdk_responses.mjs" else {}  # it sends no seed
    assert answers["chat"] == answers["streamed"] == reply(server, **options)
    Weather.model_validate(answers["parsed"])
    assert answers["calls"]
    assert all(1 <= days <= 14 for days in answers["calls"])
    assert answers["answer"]
    assert found(server, script) == answers


def test_embeddings_are_those_of_the_service(server: Server) -> None:
    assert found(server, "openai.mjs")["embedding"] == pytest.approx(embedding(server, "To be"))


@pytest.mark.parametrize("script", ["openai.mjs", "anthropic.mjs", "ollama.mjs"])
def test_an_unknown_model_is_not_found(server: Server, script: str) -> None:
    assert found(server, script)["error"] == 404
