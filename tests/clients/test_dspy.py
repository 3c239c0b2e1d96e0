"""DSPy's language model."""

import dspy
import pytest

from tests.clients.processes import Server
from tests.clients.texts import KEY, LENGTH, QUESTION, SEED, embedding, reply


def test_a_language_model_returns_the_text(server: Server) -> None:
    model = dspy.LM(f"openai/{server.model}", api_base=server.v1, api_key=KEY, max_tokens=LENGTH, seed=SEED, cache=False)
    assert model(QUESTION) == [reply(server)]


def test_an_embedder_returns_the_services_vectors(server: Server) -> None:
    embedder = dspy.Embedder(f"openai/{server.model}", api_base=server.v1, api_key=KEY, caching=False)
    assert embedder([QUESTION]).tolist() == [pytest.approx(embedding(server, QUESTION))]
