"""Whom tests.soak lets loose: clients that misbehave and clients that don't, publishers, and the service as they see it.

Plain sockets, one connection a request. Knows nothing of what is promised.
"""

import asyncio
import json
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from benchmarks.client import Address, Stream, Timeline, open_stream
from benchmarks.measure import START
from benchmarks.server import ROOT, Server, running
from trainer import artifact
from trainer.artifact import ArtifactError

MODEL = "shakespeare"
HOST = "127.0.0.1"
PATIENCE = 60  # seconds that an answer, or a connection's end, is waited for
MOST = 2**30  # bytes of an answer
GONE_AT_ONCE = struct.pack("ii", 1, 0)  # for SO_LINGER: closing sends RST, whatever is under way

# Publishes a version again and again until it is killed; prints a line when it begins.
PUBLISHER = """
import sys
from pathlib import Path
from trainer import artifact

models, version = Path(sys.argv[1]), artifact.read(Path(sys.argv[2]))
print(flush=True)
while True:
    artifact.publish(models, version.config.model_dump(), version.tensors, {})
"""


class Answer(NamedTuple):
    status: int
    content: bytes  # of a stream with the framing of its chunks

    def json(self) -> Any:
        return json.loads(self.content)


def asked(characters: int, **fields: Any) -> dict[str, Any]:
    """A body of /generate."""
    return {"start_string": START, "num_generate": characters, **fields}


def streamed(characters: int, **fields: Any) -> dict[str, Any]:
    return asked(characters, stream=True, **fields)


def request(path: str, body: Any = None, *headers: str) -> bytes:
    """A POST of a body, bytes as they are and all else as JSON; without one a GET."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {HOST}", "Connection: close", *headers]
    lines += [] if body is None else ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def ask(port: int, path: str, body: Any = None, *headers: str, most: int = MOST) -> Answer:
    """A request and its answer, or so many bytes of it and then the connection is closed.

    Raises OSError or TimeoutError where none comes.
    """
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            writer.write(request(path, body, *headers))
            received = await reader.readexactly(most)
        except asyncio.IncompleteReadError as whole:
            received = whole.partial
        finally:
            writer.close()
    head, _, content = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        raise ConnectionError(f"{path} was not answered")
    return Answer(int(head[9:12]), content)


def texts(content: bytes) -> list[tuple[str, str]]:
    """(Text, id) of each event that came whole: a stream sends it as one chunk."""
    events = re.findall(rb'^data: (\{"text".*)\nid: (\S+)\n\n', content, re.MULTILINE)
    return [(json.loads(data)["text"], event_id.decode()) for data, event_id in events]


async def vanish(port: int, rng: random.Random) -> None:
    """Sends a request or the first part of one, and is gone before half a second has passed, with a word or without."""
    whole = request("/generate", asked(rng.randint(1, 3000), stream=rng.random() < 0.8))
    _, writer = await asyncio.open_connection(HOST, port)
    writer.write(whole if rng.random() < 0.7 else whole[: rng.randrange(len(whole))])
    await asyncio.sleep(rng.uniform(0, 0.5))
    if rng.random() < 0.5:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, GONE_AT_ONCE)
    writer.close()


async def closed_after(port: int, sent: bytes, *, dribbles: bool = False) -> float | None:
    """Seconds from connecting until the server closed a connection on which only that was sent, and then a byte a second.

    None where it did not within PATIENCE.
    """
    reader, writer = await asyncio.open_connection(HOST, port)
    start = time.perf_counter()
    try:
        writer.write(sent)
        while (passed := time.perf_counter() - start) < PATIENCE:
            try:
                async with asyncio.timeout(1):
                    if not await reader.read(1000):
                        return time.perf_counter() - start
            except TimeoutError:
                writer.write(b" " if dribbles else b"")
            except ConnectionError:
                return passed
        return None
    finally:
        writer.close()


def open_unread(port: int, body: dict[str, Any]) -> socket.socket:
    """Asks, and takes in no more than a buffer as small as can be."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    connection.connect((HOST, port))
    connection.sendall(request("/generate", body))
    return connection


def connected(port: int) -> set[int]:
    """The clients' ports of the connections that the kernel has for a server's port (of IPv4, as in /proc/net/tcp)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established, ours = "01", f":{port:04X}"
    return {int(line[2].partition(":")[2], 16) for line in lines if line[1].endswith(ours) and line[3] == established}


async def cut_after(port: int, stalled: set[int]) -> list[float]:
    """Seconds from now until the server's kernel has none of those connections any more; of those that last, none."""
    start, after = time.perf_counter(), list[float]()

    async def gone() -> bool:
        left = stalled & connected(port)
        after.extend([time.perf_counter() - start] * (len(stalled) - len(left)))
        stalled.intersection_update(left)
        return not left

    await until(gone)
    return after


async def open_streams(server: Server, count: int, body: dict[str, Any]) -> list[Stream]:
    return [await open_stream(Address(server.port, "/generate"), body | {"seed": seed}) for seed in range(count)]


@asynccontextmanager
async def streaming(port: int, count: int, body: dict[str, Any]) -> AsyncIterator[list[Timeline]]:
    """So many streams all the time, each with a seed of its own and followed by another; the list has those that are over.

    On leaving they are read to their ends.
    """
    over: list[Timeline] = []
    going = True

    async def one_after_the_other(seed: int) -> None:
        while going:
            try:
                stream = await open_stream(Address(port, "/generate"), body | {"seed": seed})
                await asyncio.wait([stream.ended], timeout=PATIENCE)
                stream.leave()
                over.append(stream.timeline())
            except OSError:
                over.append(Timeline(time.perf_counter(), whole=False))
                await asyncio.sleep(0.1)
            seed += count

    tasks = [asyncio.create_task(one_after_the_other(seed)) for seed in range(count)]
    try:
        yield over
        going = False
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def rate(timelines: Sequence[Timeline]) -> float:
    """Characters a second of all together, from the first request to the last text."""
    arrivals = [arrival for timeline in timelines for arrival in timeline.arrivals]
    seconds = max(moment for moment, _ in arrivals) - min(timeline.sent for timeline in timelines)
    return sum(count for _, count in arrivals) / seconds


def gaps(timelines: Sequence[Timeline]) -> dict[str, float]:
    """Milliseconds between the events of a stream: gap_ms_p50, gap_ms_p99, gap_ms_max."""
    values = [gap * 1000 for timeline in timelines for gap, _ in timeline.gaps]
    return {f"gap_ms_{name}": round(float(np.percentile(values, q)), 1) for name, q in (("p50", 50), ("p99", 99), ("max", 100))}


def publish_next(model: Path) -> int:
    """Publishes a model's newest version with every weight off by about a thousandth; the number it got."""
    newest = artifact.read(model / str(artifact.versions(model)[-1]))
    rng = np.random.default_rng(newest.config.version)
    tensors = {
        name: tensor * (1 + rng.standard_normal(tensor.shape, np.float32) / np.float32(1000))
        for name, tensor in newest.tensors.items()
    }
    return artifact.publish(model.parent, newest.config.model_dump(), tensors, {}).config.version


async def publish_and_die(model: Path, seconds: float) -> None:
    """A process that publishes again and again, killed so long after it has begun."""
    newest = model / str(artifact.versions(model)[-1])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PUBLISHER, str(model.parent), str(newest), cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        if process.stdout is None or not await process.stdout.readline():
            raise ChildProcessError("the publisher ended by itself")
        await asyncio.sleep(seconds)
    finally:
        process.kill()
        await process.wait()


def remove_before(models: Path, number: int) -> None:
    """Versions that are not served any more, so that the disk stays small."""
    for version in artifact.versions(models / MODEL):
        if version < number:
            shutil.rmtree(models / MODEL / str(version))


def spoiled(version: Path) -> list[Path]:
    """Beside a version three that can't be served: with a bit turned, half copied, and copied under another name."""
    turned, half, foreign = version.with_name("1000"), version.with_name("1001"), version.parents[1] / "hamlet" / version.name
    for copy in (turned, foreign):
        shutil.copytree(version, copy)
    weights = bytearray((turned / artifact.WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (turned / artifact.WEIGHTS).write_bytes(weights)
    half.mkdir()
    shutil.copy(version / artifact.CONFIG, half)
    return [turned, half, foreign]


def why_not_published(models: Path) -> str:
    try:
        publish_next(models / MODEL)
    except ArtifactError as error:
        return str(error)
    return "published"


MIXED = ("stream", "stops", "json", "logprobs", "completion", "chat", "chat stream", "score", "leaves", "unknown", "broken")
LONGEST = 3000  # characters of a mixed answer


class Mixed:
    """A client that sends requests of all kinds, one after another, and what came of them."""

    def __init__(self, port: int, seed: int) -> None:
        self._port, self._rng = port, random.Random(seed)
        self.requests = 0
        self.busy = 0  # answered 429
        self.left = 0
        self.errors: list[str] = []

    async def send(self) -> None:
        """One, of a kind and a length drawn; anything but the answer that it should have is an error."""
        kind = self._rng.choice(MIXED)
        path, body, status, expected = self._drawn(kind)
        self.requests += 1
        try:
            if kind == "leaves":
                await self._leave(path, body)
                return
            answer = await ask(self._port, path, body)
        except (OSError, TimeoutError) as error:
            self.errors.append(f"{kind}: {error!r}")
            return
        if answer.status == 429:
            self.busy += 1
            await asyncio.sleep(self._rng.uniform(0.1, 0.5))
        elif answer.status != status or expected not in answer.content:
            self.errors.append(f"{kind}: {answer.status} {answer.content[-300:]!r}")

    async def _leave(self, path: str, body: Any) -> None:
        asking = asyncio.create_task(ask(self._port, path, body))
        await asyncio.wait([asking], timeout=self._rng.uniform(0, 1))
        self.left += asking.cancel()

    def _drawn(self, kind: str) -> tuple[str, Any, int, bytes]:
        """(Path, body, and of the answer the status and what it must hold.)"""
        rng = self._rng
        start = "".join(rng.choices("abcdefgh ,\n", k=rng.randint(1, 300)))
        length = round(LONGEST ** rng.random())
        text = {"start_string": start, "num_generate": length, "temperature": rng.uniform(0, 1.5)}
        prompt = {"prompt": start, "max_tokens": length, "n": rng.randint(1, 4)}
        chat = {"messages": [{"role": "user", "content": start}], "max_tokens": length, "n": rng.randint(1, 3)}
        match kind:
            case "stream" | "leaves":
                return "/generate", text | {"stream": True}, 200, b"event: done"
            case "stops":
                return "/generate", text | {"stream": True, "stop": ["\n\n", "the"]}, 200, b"event: done"
            case "json":
                return "/generate", text, 200, b'"finish_reason":"length"'
            case "logprobs":
                return "/generate", text | {"logprobs": 3}, 200, b'"likeliest"'
            case "completion":
                return "/v1/completions", prompt, 200, b'"total_tokens"'
            case "chat":
                return "/v1/chat/completions", chat, 200, b'"total_tokens"'
            case "chat stream":
                return "/v1/chat/completions", chat | {"stream": True}, 200, b"data: [DONE]"
            case "score":
                return "/score", {"text": start * 3}, 200, b'"perplexity"'
            case "unknown":
                return "/generate", text | {"model": "hamlet"}, 404, b'"model_not_found"'
            case _:
                return "/generate", json.dumps(text)[:-1].encode(), 422, b'"invalid_json"'


@dataclass(frozen=True)
class Service(Server):
    """The service, ready, and what can be seen of it."""

    models: Path

    async def ask(self, path: str, body: Any = None, *headers: str, most: int = MOST) -> Answer:
        return await ask(self.port, path, body, *headers, most=most)

    async def said(self) -> str:
        """What a request with a seed is answered."""
        return str((await self.ask("/generate", asked(200, seed=1))).json()["text"])

    async def gauge(self, name: str) -> float:
        """A metric, of all models together."""
        lines = (await self.ask("/metrics")).content.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def rested(self, descriptors: int) -> bool:
        """Nobody has a slot or waits for one, and no more files are open than that."""
        busy = await self.gauge("folio_num_requests_running") + await self.gauge("folio_num_requests_waiting")
        return not busy and self.descriptors() <= descriptors

    async def serves(self, version: int) -> bool:
        models = (await self.ask("/models")).json()["models"]
        return bool([model["version"] for model in models] == [version])

    async def refused(self) -> list[str]:
        reasons: list[str] = (await self.ask("/models")).json()["refused"]
        return reasons

    async def refuses(self, version: Path) -> bool:
        return any(str(version) in reason for reason in await self.refused())

    async def connects(self, count: int) -> bool:
        return len(connected(self.port)) >= count


@contextmanager
def service(*flags: object, models: Path | None = None) -> Iterator[Service]:
    """On the given models folder, or on one with the shipped model alone."""
    with TemporaryDirectory() as folder:
        models = models or copy_shipped(Path(folder) / "models")
        with running("service", ["--models-dir", models, *flags], "/readyz") as server:
            yield Service(server.port, server.pid, server.start_seconds, models)


def copy_shipped(models: Path) -> Path:
    shutil.copytree(ROOT / "models" / MODEL, models / MODEL)
    return models


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> bool:
    """Whether it holds in that time."""
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        if await condition():
            return True
        await asyncio.sleep(0.05)
    return False
