"""DSPy's language model."""

import dspy
import pytest

from tests.clients.processes import Server, service
from tests.clients.texts import KEY, LENGTH, QUESTION, SEED, embedding, reply


def test_a_language_model_returns_the_text(server: Server) -> None:
    model = dspy.LM(f"openai/{server.model}", api_base=server.v1, api_key=KEY, max_tokens=LENGTH, seed=SEED, cache=False)
    assert model(QUESTION) == [reply(server)]


def test_an_embedder_returns_the_services_vectors(server: Server) -> None:
    embedder = dspy.Embedder(f"openai/{server.model}", api_base=server.v1, api_key=KEY, caching=False)
    assert embedder([QUESTION]).tolist() == [pytest.approx(embedding(server, QUESTION))]


def test_predict_returns_its_fields() -> None:
    """DSPy uses JSON Schema for models that LiteLLM knows to understand it, so the model has the name of such a one."""
    with service("--aliases", "gpt-4o-mini=shakespeare") as server:
        model = dspy.LM("openai/gpt-4o-mini", api_base=server.v1, api_key=KEY, cache=False, seed=SEED, max_tokens=400)
        with dspy.context(lm=model):
            first, second = (dspy.Predict("question -> city: str, days: int")(question=QUESTION) for _ in range(2))
    assert type(first.city) is str
    assert type(first.days) is int
    assert (first.city, first.days) == (second.city, second.days)
