"""The seed guarantee over real traffic: same version, same request, same seed: the same text."""

import asyncio
import string
from pathlib import Path
from typing import Any

import pytest

from service.generation.backends import BackendName
from service.settings import Settings
from tests.sse import events
from tests.support import at_once, serving

MODELS = Path(__file__).parents[2] / "models"
GOLDEN = Path(__file__).parents[1] / "service" / "generation" / "golden.txt"

KINDS: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"temperature": 0.5, "top_k": 8},
    {"top_p": 0.9},
    {"temperature": 2, "min_p": 0.1},
    {"allowed_characters": string.ascii_lowercase + " \n"},
    {"stop": ["e ", "\n\n", "the"]},
    {"temperature": 1.2, "top_k": 30, "top_p": 0.95, "min_p": 0.01, "stop": "ROMEO"},
]
STARTS = ["ROMEO: ", "a", "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\n" * 3]


def requests() -> list[dict[str, Any]]:
    return [
        {**KINDS[i % len(KINDS)], "start_string": STARTS[i % len(STARTS)], "num_generate": 20 + 7 * (i % 13), "seed": i}
        for i in range(64)
    ]


def test_sixty_four_requests_of_mixed_kinds_get_what_each_gets_alone() -> None:
    settings = Settings(models_dir=MODELS, default_model="shakespeare", prompt_cache_mb=0)
    with serving(settings) as (_, client):
        alone = [client.post("/generate", json=body).json() for body in requests()]
        expected = [(answer["text"], answer["finish_reason"]) for answer in alone]
        assert {reason for _, reason in expected} == {"length", "stop"}
        for streamed in (False, True):
            assert asyncio.run(at_once(str(client.base_url), requests(), streamed=streamed)) == expected
    # Another process's worth of history: fewer slots, another cut of calls, prompts read once.
    with serving(settings.model_copy(update={"slots": 7, "chunk": 5, "prompt_cache_mb": 10})) as (_, client):
        for _ in range(2):
            assert asyncio.run(at_once(str(client.base_url), requests(), streamed=True)) == expected


@pytest.mark.parametrize(("backend", "characters"), [("native", 2000), ("reference", 300)])
def test_any_backend_on_any_machine_answers_with_the_golden_text(backend: BackendName, characters: int) -> None:
    with serving(Settings(models_dir=MODELS, default_model="shakespeare", backend=backend)) as (_, client):
        body: dict[str, Any] = {"start_string": "ROMEO: ", "seed": 1, "num_generate": characters}
        expected = GOLDEN.read_text()[: len("ROMEO: ") + characters]
        assert client.post("/generate", json=body).json()["text"] == expected
        query = client.get("/generate", params={**body, "echo": "true"})
        assert "".join(event.data["text"] for event in events([query.content]) if event.name == "message") == expected
