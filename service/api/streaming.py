"""A running generation as server-sent events."""

import asyncio
import json
import logging

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.errors import translated
from service.api.running import Running
from service.generation.engine import EngineStopped

log = logging.getLogger(__name__)

KEEP_ALIVE = 15.0  # seconds without an event after which a comment is sent
COMMENT = b": keep-alive\n\n"


class EventStream(Response):
    """Unnamed events with the text, then `done` with the answer less its text, or `error`; each with an id.

    Sends by itself rather than through StreamingResponse: at thousands of events a second what an event costs is what the
    network does not get.
    """

    media_type = "text/event-stream"

    def __init__(self, running: Running) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._running, self._generation = running, running.generation
        self._sent = 0  # characters

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        leaving = asyncio.create_task(self._cancel_when_left(receive))
        loop = asyncio.get_running_loop()
        self._last = loop.time()  # of an event or a comment
        self._look_for_silence()
        try:
            more = True
            while more:
                try:
                    body, more = await self._next()
                except Exception as error:
                    if not isinstance(error, EngineStopped):
                        log.exception("stream %s failed", self._running.id)
                    body, more = self._event(_json(translated(error).body), "error"), False
                self._last = loop.time()
                await send({"type": "http.response.body", "body": body, "more_body": more})
        finally:
            self._timer.cancel()
            leaving.cancel()

    async def _next(self) -> tuple[bytes, bool]:
        """The next bytes, and whether there are more after them. Raises what ended the generation, if it did not end by itself."""
        generation = self._generation
        characters = (await generation.read()).characters
        reason, body = generation.finish_reason, b""
        if characters:
            self._sent += len(characters)
            text = self._running.model.vocabulary.decode(characters)
            body = self._event(f'{{"text":{json.dumps(text, ensure_ascii=False)}}}')
        elif reason is None:
            return COMMENT, True
        if reason is None or reason == "error":  # the error comes with the next read
            return body, True
        return body if reason == "cancelled" else body + self._event(_json(self._running.done()), "done"), False

    def _event(self, data: str, name: str | None = None) -> bytes:
        """Data without line ends, as JSON has none."""
        event = f"event: {name}\n" if name else ""
        return f"{event}data: {data}\nid: {self._running.id}:{self._sent}\n\n".encode()

    def _look_for_silence(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._last >= KEEP_ALIVE:
            self._last = loop.time()
            self._generation.wake()
        self._timer = loop.call_at(self._last + KEEP_ALIVE, self._look_for_silence)

    async def _cancel_when_left(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._running.model.engine.cancel(self._generation)


def _json(data: BaseModel) -> str:
    return data.model_dump_json()
