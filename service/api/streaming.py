"""Server-sent events: how they are sent, and a running generation as a stream of them."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import ExitStack, aclosing, suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.errors import ClientDisconnected, to_api_error
from service.api.running import Running, logprobs_of
from service.generation.engine import EngineStopped

log = logging.getLogger(__name__)
T = TypeVar("T")

LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}  # JSON itself escapes all others
KEEP_ALIVE = 15.0  # seconds without an event after which a comment is sent
COMMENT = b": keep-alive\n"  # one line feed: after two, some clients take the event before it for another


class EventStream(Response):
    """Sends what `events` gives until it ends or the client has left; then `events` is closed.

    Sends by itself rather than through StreamingResponse: at thousands of events a second, time spent per event is taken
    from the backend. wake: makes `events`, if it waits, give a comment. job: closed at the end.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], wake: Callable[[], None], job: ExitStack) -> None:
        super().__init__(headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._wake, self._job = events, wake, job

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        with self._job:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            self._last = asyncio.get_running_loop().time()  # of an event or a comment
            self._look_for_silence()
            try:
                with suppress(ClientDisconnected):
                    await unless_left(self._send(send), receive)
            finally:
                self._timer.cancel()

    async def _send(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        async with aclosing(self._events) as events:
            async for body in events:
                self._last = loop.time()
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _look_for_silence(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._last >= KEEP_ALIVE:
            self._last = loop.time()
            self._wake()
        self._timer = loop.call_at(self._last + KEEP_ALIVE, self._look_for_silence)


def described(data: str) -> dict[str, Any]:
    """The `content` of a path operation that streams; data: what the events' data is."""
    text = {"type": "string"}
    schema = {"type": "object", "properties": {"event": text, "data": text | {"description": data}, "id": text}}
    return {"text/event-stream": {"schema": schema}}


async def left(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_left(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """What `work` gives. Raises what it raises, or ClientDisconnected as soon as the client has."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected
        return await working
    finally:
        working.cancel()
        leaving.cancel()


async def events_of(running: Running) -> AsyncGenerator[bytes, None]:
    """Unnamed events with the text, then `done` with the answer without its text, or `error`; each with an id."""
    reader, vocabulary, work = running.reader, running.model.vocabulary, running.work
    prefix, sent = running.position.prefix, running.position.sent
    work.streamed = 0
    try:
        if running.body.echo and not running.resumed:
            yield event(_text(running.start_string), id=f"{prefix}0")
        while not reader.ended:
            chunk = await reader.read()
            if chunk.characters:
                sent += len(chunk.characters)
                data = _text(vocabulary.decode(chunk.characters))
                if chunk.log_probabilities is not None:
                    found = logprobs_of(vocabulary, chunk.characters, chunk.log_probabilities)
                    data = f'{data[:-1]},"logprobs":{json.dumps(found, ensure_ascii=False)}}}'
                yield event(data, id=f"{prefix}{sent}")
                work.streamed += len(chunk.characters)
            elif not reader.ended:
                yield COMMENT
        if running.generation.output.finish_reason != "cancelled":
            yield event(running.done().model_dump_json(exclude_none=True), "done", id=f"{prefix}{sent}-end")
    except Exception as error:
        if not isinstance(error, EngineStopped):
            log.exception("stream %s failed", running.id)
        work.cut = "error"
        yield event(to_api_error(error).body.model_dump_json(), "error", id=f"{prefix}{sent}")


def event(data: str, name: str | None = None, *, id: str | None = None) -> bytes:  # noqa: A002 - the field's name
    """One event of JSON, in which line ends are escaped, as are those that only some readers take for one."""
    if not data.isascii():
        data = data.translate(LINE_ENDS)
    named, identified = f"event: {name}\n" if name else "", f"id: {id}\n" if id else ""
    return f"{named}data: {data}\n{identified}\n".encode()


def _text(text: str) -> str:
    return f'{{"text":{json.dumps(text, ensure_ascii=False)}}}'
