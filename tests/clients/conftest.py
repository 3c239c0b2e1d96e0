"""Clients and agent frameworks of other people, each as its users call it, with a real server. `make clients` runs these tests."""

import os
from collections.abc import Iterator

import pytest

from tests.clients.processes import Server, service


def pytest_configure() -> None:
    """Before any client is imported: none of them may call home, and none may use settings of this machine."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "ANTHROPIC_", "OLLAMA_", "LANGSMITH_", "LANGCHAIN_")):
            del os.environ[name]
    os.environ |= {
        "DO_NOT_TRACK": "1",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_PROXY": "*",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
    }


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The service with default options."""
    with service() as server:
        yield server
