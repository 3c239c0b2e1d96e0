"""Small published models with random weights, and a real server on a real socket."""

import socket
import string
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.sse import Event, events
from trainer.artifact import Architecture, Tensors, Version

VOCABULARY = sorted(set(string.ascii_letters + " \n.,:!?'é\u2028語🎭"))

ARCHITECTURE = Architecture(cell="gru", layers=1, units=24, embedding=8, vocabulary=VOCABULARY)


def random_tensors(architecture: Architecture, seed: int = 0) -> Tensors:
    """Weights large enough that the next character depends on all that came before."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * 2 / np.sqrt(shape[0])).astype(np.float32)
        for name, shape in architecture.tensor_shapes.items()
    }


def config(architecture: Architecture, name: str = "tiny", **fields: Any) -> dict[str, Any]:
    """What `artifact.publish` takes besides the tensors."""
    return {
        "name": name,
        **architecture.model_dump(),
        "characters": 1,
        "recipe": "none",
        "training": {},
        "scores": {},
        "sha256": {"corpus": "0" * 64},
        "packages": {},
        "created": "2026-01-01T00:00:00+00:00",
        **fields,
    }


Publish = Callable[..., Version]


@contextmanager
def run_server(app: FastAPI) -> Iterator[str]:
    """The application on a free port, in a thread; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Polls until the condition holds; fails the test when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@contextmanager
def serving(settings: Settings) -> Iterator[tuple[FastAPI, httpx.Client]]:
    """A ready server with these settings, and a client for it."""
    app = create_app(settings)
    with run_server(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        yield app, client


def stream(client: httpx.Client, **body: Any) -> list[Event]:
    """The events of a streamed generation."""
    with client.stream("POST", "/generate", json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        return list(events(response.iter_bytes()))
