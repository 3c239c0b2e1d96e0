"""Clients on plain sockets, one connection a request: some that behave and some that do not. Knows nothing of what is promised."""

import asyncio
import json
import random
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.client import Address, Stream, Timeline, open_stream
from benchmarks.measure import START
from benchmarks.server import Server

HOST = "127.0.0.1"
PATIENCE = 60  # seconds to wait for an answer, or for the end of a connection
MOST = 2**30  # bytes of an answer
CLOSE_BY_RST = struct.pack("ii", 1, 0)  # for SO_LINGER


class Answer(NamedTuple):
    status: int
    content: bytes  # a stream still has the framing of its chunks

    def json(self) -> Any:
        return json.loads(self.content)


def generate_body(characters: int, **fields: Any) -> dict[str, Any]:
    """A request body for /generate."""
    return {"start_string": START, "num_generate": characters, **fields}


def stream_body(characters: int, **fields: Any) -> dict[str, Any]:
    return generate_body(characters, stream=True, **fields)


def request(path: str, body: Any = None, *headers: str) -> bytes:
    """A POST of the body, bytes or JSON; a GET if there is none."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {HOST}", "Connection: close", *headers]
    lines += [] if body is None else ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def send(port: int, path: str, body: Any = None, *headers: str, most: int = MOST) -> Answer:
    """Sends a request and reads its answer, up to `most` bytes. Raises OSError or TimeoutError if none arrives."""
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
    """(Text, id) of each complete event. The server sends each as one chunk."""
    events = re.findall(rb'^data: (\{"text".*)\nid: (\S+)\n\n', content, re.MULTILINE)
    return [(json.loads(data)["text"], event_id.decode()) for data, event_id in events]


async def vanish(port: int, rng: random.Random) -> None:
    """Sends a request or a part of one, and disconnects within half a second, by FIN or by RST."""
    whole = request("/generate", generate_body(rng.randint(1, 3000), stream=rng.random() < 0.8))
    _, writer = await asyncio.open_connection(HOST, port)
    writer.write(whole if rng.random() < 0.7 else whole[: rng.randrange(len(whole))])
    await asyncio.sleep(rng.uniform(0, 0.5))
    if rng.random() < 0.5:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CLOSE_BY_RST)
    writer.close()


async def closed_after(port: int, sent: bytes, *, dribbles: bool = False) -> float | None:
    """Seconds until the server closes a connection on which only `sent` arrives; None if it does not within PATIENCE.

    dribbles: one more byte arrives each second.
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


def open_unreading(port: int, body: dict[str, Any]) -> socket.socket:
    """Sends a request and reads nothing; the receive buffer is the smallest possible."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    connection.connect((HOST, port))
    connection.sendall(request("/generate", body))
    return connection


def connected(port: int) -> set[int]:
    """The client ports of all established IPv4 connections to a server's port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established, ours = "01", f":{port:04X}"
    return {int(line[2].partition(":")[2], 16) for line in lines if line[1].endswith(ours) and line[3] == established}


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> bool:
    """Polls until the condition holds; False if it does not within `seconds`."""
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        if await condition():
            return True
        await asyncio.sleep(0.05)
    return False


async def disconnected_after(port: int, stalled: set[int]) -> list[float]:
    """Seconds until each of those connections is gone from the kernel; those that remain are left out."""
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
    """Keeps `count` streams running, each followed by another. Yields a list of those that have ended.

    At exit the streams are read to their end.
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
    """Characters a second of all streams, from the first request to the last text."""
    arrivals = [arrival for timeline in timelines for arrival in timeline.arrivals]
    seconds = max(moment for moment, _ in arrivals) - min(timeline.sent for timeline in timelines)
    return sum(count for _, count in arrivals) / seconds


def gaps(timelines: Sequence[Timeline]) -> dict[str, float]:
    """Milliseconds between the events of a stream: gap_ms_p50, gap_ms_p99, gap_ms_max."""
    values = [gap * 1000 for timeline in timelines for gap, _ in timeline.gaps]
    return {f"gap_ms_{name}": round(float(np.percentile(values, q)), 1) for name, q in (("p50", 50), ("p99", 99), ("max", 100))}
