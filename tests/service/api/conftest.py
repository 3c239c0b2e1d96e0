"""A server with two small models on a real socket, which the tests of this folder share."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.settings import Settings
from tests.support import ENDLESS, publish, serving


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FastAPI, httpx.Client]]:
    models = tmp_path_factory.mktemp("models")
    for name in ("tiny", "other"):
        publish(models, name, seed=len(name))
    settings = Settings(
        models_dir=models,
        default_model="tiny",
        slots=4,
        queue_limit=8,
        max_num_generate=ENDLESS["num_generate"],
    )
    with serving(settings) as both:
        yield both


@pytest.fixture
def client(served: tuple[FastAPI, httpx.Client]) -> httpx.Client:
    return served[1]


@pytest.fixture
def engine(served: tuple[FastAPI, httpx.Client]) -> Any:
    return served[0].state.registry.get("tiny").engine


@pytest.fixture
def read(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Characters of prompts that each of the engine's calls has read."""
    counts: list[int] = []
    decode = engine.backend.decode

    def counted(batch: Any) -> Any:
        counts.append(int((batch.forced >= 0).sum()))
        return decode(batch)

    monkeypatch.setattr(engine.backend, "decode", counted)
    return counts
