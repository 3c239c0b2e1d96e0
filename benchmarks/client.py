"""A client of streamed answers that costs the server's cores as little as it can.

While answers come it only notes when which bytes arrived; what they say is read when all is over. Speaks just enough HTTP/1.1
on plain sockets, one connection a request. Knows nothing of servers but that text comes as events `data: {"text": "..."}`.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Address:
    port: int
    path: str
    host: str = "127.0.0.1"


class Stream(asyncio.Protocol):
    """A request under way: `started` when the first text has come, `ended` when the server has closed the connection."""

    def __init__(self, address: Address, body: dict[str, Any]) -> None:
        self.wanted = int(body["num_generate"])
        content = json.dumps(body).encode()
        head = (
            f"POST {address.path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\nContent-Type: application/json\r\n"
            f"Accept: text/event-stream\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        self._request = head.encode() + content
        self.sent = 0.0  # seconds of time.perf_counter, as all times here
        self.received: list[tuple[float, bytes]] = []
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"expected a stream's transport, received {transport!r}")
        self._transport = transport
        self.sent = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.received.append((time.perf_counter(), data))
        if not self.started.done() and b"data: " in data:
            self.started.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        for future in (self.started, self.ended):
            if not future.done():
                future.set_result(None)

    def leave(self) -> None:
        """Closes the connection without waiting for the rest."""
        self._transport.abort()

    def timeline(self) -> "Timeline":
        """What came, and when."""
        rest, arrivals, count = b"", list[tuple[float, int]](), 0
        for moment, data in self.received:
            *events, rest = (rest + data).split(b"\n\n")
            texts = [characters for event in events if (characters := characters_of(event))]
            if texts:
                arrivals.append((moment, sum(texts)))
                count += len(texts)
        ok = bool(self.received) and self.received[0][1].startswith(b"HTTP/1.1 200")
        return Timeline(self.sent, arrivals, ok and sum(characters for _, characters in arrivals) == self.wanted, count)


@dataclass(frozen=True)
class Timeline:
    """An answer: when it was asked for, when how many characters came (what comes at once counts as one event)."""

    sent: float
    arrivals: Sequence[tuple[float, int]] = field(default_factory=list)
    whole: bool = True  # status 200, and as many characters as were asked for
    events: int = 0  # with text, however many came at once

    @property
    def first_text(self) -> float:
        """Seconds from sending the request to the first text event: time to first token."""
        return self.arrivals[0][0] - self.sent

    @property
    def gaps(self) -> list[tuple[float, int]]:
        """Of every event but the first: seconds since the one before, and its characters."""
        return [(b - a, count) for (a, _), (b, count) in zip(self.arrivals, self.arrivals[1:], strict=False)]


def characters_of(event: bytes) -> int:
    """Characters in an event, framing of chunks and other fields about it; 0 where it has a name (`done`, `error`)."""
    before, _, rest = event.partition(b"data: ")
    if not rest or b"event: " in before:
        return 0
    return len(json.loads(rest.partition(b"\n")[0])["text"])


async def open_stream(address: Address, body: dict[str, Any]) -> Stream:
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(partial(Stream, address, body), address.host, address.port)
    return stream


async def read_all(address: Address, bodies: Sequence[dict[str, Any]], patience: float) -> list[Timeline]:
    """Sends all requests at once and reads every answer to its end; those not over after `patience` seconds are left."""
    streams = await asyncio.gather(*(open_stream(address, body) for body in bodies))
    _, pending = await asyncio.wait([stream.ended for stream in streams], timeout=patience)
    if pending:
        for stream in streams:
            stream.leave()
    return [stream.timeline() for stream in streams]
