"""A running generation as server-sent events."""

import asyncio
from collections.abc import AsyncIterator

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel

from service.api.errors import translated
from service.api.running import Running
from service.generation.engine import EngineStopped

KEEP_ALIVE = 15.0  # seconds without an event after which a comment is sent
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class TextEvent(BaseModel):
    """Generated characters, several an event, without the start string."""

    text: str


async def events(running: Running) -> AsyncIterator[bytes]:
    """Unnamed events with the text, then `done` with the answer less its text, or `error`; each with an id."""
    generation, sent = running.generation, 0

    def event(data: BaseModel, name: str | None = None) -> bytes:
        return format_sse_event(data_str=data.model_dump_json(), event=name, id=f"{running.id}:{sent}")

    while True:
        try:
            async with asyncio.timeout(KEEP_ALIVE):
                characters = await generation.read()
        except TimeoutError:
            yield KEEPALIVE_COMMENT
            continue
        except EngineStopped as error:
            yield event(translated(error).body, "error")
            return
        if not characters:
            yield event(running.done(), "done")
            return
        sent += len(characters)
        yield event(TextEvent(text=running.model.vocabulary.decode(characters)))
