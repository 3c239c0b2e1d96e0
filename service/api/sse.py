"""A job's answer as a stream, by default of server-sent events."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Protocol

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.disconnect import cancel_on_disconnect
from service.api.errors import ApiError, to_api_error
from service.api.events import COMMENT
from service.api.job import Job
from service.generation.engine import EngineStopped
from service.generation.output_queue import Chunk

log = logging.getLogger(__name__)

KEEP_ALIVE = 15.0  # seconds without an event after which the connection is kept alive


class StreamFormat(Protocol):
    """How a protocol writes a job's answer. Each method returns events, maybe none."""

    def opening(self) -> bytes: ...

    def chunk(self, i: int, chunk: Chunk, *, ended: bool) -> bytes:
        """New characters of completion `i`, or its end, or both."""
        ...

    def closing(self) -> bytes:
        """Once all completions have ended."""
        ...

    def failure(self, error: ApiError) -> bytes: ...


class EventStream(Response):
    """Streams a submitted job until it ends, fails, or the client disconnects. A stream that fails says so.

    Sends events directly instead of through StreamingResponse: at thousands of events a second, its overhead slows the network.
    """

    def __init__(
        self, job: Job, stream_format: StreamFormat, *, media_type: str = "text/event-stream", keep_alive: bytes = COMMENT
    ) -> None:
        """keep_alive: is sent when there has been nothing else for a while, and means nothing to the client."""
        super().__init__(headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}, media_type=media_type)
        del self.headers["content-length"]
        self._job, self._format, self._keep_alive = job, stream_format, keep_alive
        job.sent = 0

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        with self._job:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            self._last = asyncio.get_running_loop().time()  # of an event
            self._check_silence()
            try:
                with suppress(ClientDisconnect):
                    await cancel_on_disconnect(self._send(send), receive)
            finally:
                self._timer.cancel()

    async def _send(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        async with aclosing(self._events()) as events:
            async for body in events:
                self._last = loop.time()
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncGenerator[bytes, None]:
        job, stream_format = self._job, self._format
        unsent = 0  # characters that the format has not written yet
        try:
            if opening := stream_format.opening():
                yield opening
            async with aclosing(job.stream()) as chunks:
                async for i, chunk, ended in chunks:
                    if not chunk.characters and not ended:
                        yield self._keep_alive
                        continue
                    unsent += len(chunk.characters)
                    if body := stream_format.chunk(i, chunk, ended=ended):
                        yield body
                        job.sent, unsent = (job.sent or 0) + unsent, 0
            if closing := stream_format.closing():
                yield closing
        except Exception as error:
            if not isinstance(error, EngineStopped):
                log.exception("a stream failed")
            job.cut_by = "error"
            yield stream_format.failure(to_api_error(error))

    def _check_silence(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._last >= KEEP_ALIVE:
            self._last = loop.time()
            self._job.wake()
        self._timer = loop.call_at(self._last + KEEP_ALIVE, self._check_silence)
