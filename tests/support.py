"""Small published models with random weights, a real server on a real socket, and what is asked of it."""

import asyncio
import socket
import string
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.generation import reference
from service.generation.core import EngineCore
from service.generation.exact import ExactBackend
from service.generation.output_queue import Chunk, joined
from service.generation.quantized import quantize
from service.generation.request import Generation, Prompt
from service.generation.sampling import History, Sampling
from service.listening import listen
from service.server import Server
from service.settings import Settings
from tests.sse import Event, events
from trainer import artifact
from trainer.artifact import Architecture, Tensors, Version
from trainer.vocabulary import Vocabulary


class _Asyncio:
    """asyncio for uvicorn, which polls ten times a second whether it should end. Here hundreds of servers end."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / 10)


setattr(uvicorn.server, "asyncio", _Asyncio())  # noqa: B010 - the types know no such attribute

VOCABULARY = sorted(set(string.ascii_letters + " \n.,:!?'é\u2028語🎭"))

ARCHITECTURE = Architecture(cell="gru", layers=1, units=24, embedding=8, vocabulary=VOCABULARY)

ENDLESS: dict[str, Any] = {"start_string": "a", "num_generate": 10**9, "stream": True}  # at any speed it takes hours


def load_weights(model: Any, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Sets a Keras model's weights, by published name."""
    from trainer import network  # here, because it imports TensorFlow

    for name, variable in network.variables(model).items():
        variable.assign(weights[name])


def random_tensors(architecture: Architecture, seed: int = 0) -> Tensors:
    """Weights large enough that the next character depends on all that came before."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * 2 / np.sqrt(shape[0])).astype(np.float32)
        for name, shape in architecture.tensor_shapes.items()
    }


def reference_logits(architecture: Architecture, tensors: Tensors, ids: Sequence[int]) -> NDArray[np.float64]:
    """What the exact step says after each of the ids: [characters, vocabulary]."""
    network, said = quantize(architecture, tensors), []
    state = np.zeros((1, *network.state_shape), np.float32)
    for character in ids:
        state, logits = reference.step(network, state, np.array([character], np.int32), np.zeros(1, np.bool_))
        said.append(logits[0])
    return np.array(said, np.float64)


def reference_text(architecture: Architecture, tensors: Tensors, start: str, characters: int, sampling: Sampling, seed: int) -> str:
    """The start string and its continuation by the reference backend, one step a call."""
    vocabulary, core = Vocabulary(architecture.vocabulary), EngineCore(ExactBackend(architecture, tensors, 1, None), max_steps=1)
    ids = vocabulary.encode(start)
    generation = Generation(Prompt(ids), characters, sampling, seed, history=History.of(ids, len(vocabulary)))
    return start + vocabulary.decode(run_core(core, generation)[generation].characters)


def run_core(core: EngineCore, *generations: Generation) -> dict[Generation, Chunk]:
    """Runs generations to their ends; what each gave."""
    core.submit(*generations)
    chunks = dict.fromkeys(generations, Chunk([]))
    while core.has_work:
        for generation, chunk, _ in core.step()[0]:
            chunks[generation] = joined(chunks[generation], chunk)
    return chunks


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


def publish(
    models: Path,
    name: str = "tiny",
    seed: int = 0,
    architecture: Architecture = ARCHITECTURE,
    files: Mapping[str, bytes] | None = None,
    **fields: Any,
) -> Version:
    """The next version of a model in the folder; seed: of its weights; fields: of its config.json."""
    return artifact.publish(models, config(architecture, name, **fields), random_tensors(architecture, seed), files or {})


Publish = Callable[..., Version]


@contextmanager
def run_server(app: FastAPI) -> Iterator[str]:
    """The application on a free port, in a thread; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1, timeout_keep_alive=60))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        listener.close()
        assert not thread.is_alive(), "the server does not end"


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
    with run_server(app) as address, httpx.Client(base_url=address, timeout=60, verify=False) as client:  # noqa: S501 - no TLS
        wait_until(lambda: client.get("/readyz").status_code == 200)
        yield app, client


@contextmanager
def listening(settings: Settings, loop: str = "auto") -> Iterator[tuple[FastAPI, httpx.Client]]:
    """A server as `python -m service` starts it, but in a thread, and a client for it."""
    app = create_app(settings)
    server = Server(app, settings, listen(settings.listens_on, settings.port, settings.uds))
    server.config.loop = loop
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        address = server.servers[0].sockets[0].getsockname()
        base, uds = ("http://folio.example", str(settings.uds)) if settings.uds else (f"http://127.0.0.1:{address[1]}", None)
        with httpx.Client(base_url=base, transport=httpx.HTTPTransport(uds=uds, verify=False), timeout=60) as client:
            yield app, client
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def served(settings: Settings) -> Iterator[httpx.Client]:
    """The same, where only the client is needed."""
    with listening(settings) as (_, client):
        yield client


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    """A connection to the client's server."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=60) as connection:
        yield connection


def stream(client: httpx.Client, **body: Any) -> list[Event]:
    """The events of a streamed generation."""
    with client.stream("POST", "/generate", json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        return list(events(response.iter_bytes()))


async def at_once(address: str, bodies: list[dict[str, Any]], *, streamed: bool) -> list[tuple[str, str]]:
    """Each request's text and finish reason, all sent at the same time on connections of their own."""

    async def one(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[str, str]:
        response = await client.post("/generate", json={**body, "stream": streamed})
        assert response.status_code == 200, response.text
        if not streamed:
            return response.json()["text"], response.json()["finish_reason"]
        *texts, done = events([response.content])
        return body["start_string"] + "".join(event.data["text"] for event in texts), done.data["finish_reason"]

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        return await asyncio.gather(*(one(client, body) for body in bodies))


def metric(exposition: str, name: str, **labels: str) -> float:
    """Of what /metrics says, the sum of all samples of that name with those labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def running(client: httpx.Client) -> float:
    """Requests that have a slot."""
    return metric(client.get("/metrics").text, "folio_num_requests_running")


class Gate:
    """Stands before a backend and lets so many calls through, until it is opened. `arrived` counts the calls that came."""

    def __init__(self, backend: Any, monkeypatch: pytest.MonkeyPatch, permits: int) -> None:
        self._permits, self._open, self.arrived = threading.Semaphore(permits), False, 0
        decode = backend.decode

        def gated(batch: Any) -> Any:
            self.arrived += 1
            assert self._open or self._permits.acquire(timeout=300), "nobody opened the gate"
            return decode(batch)

        monkeypatch.setattr(backend, "decode", gated)

    def open(self) -> None:
        self._open = True
        self._permits.release()  # the one call that may be waiting
