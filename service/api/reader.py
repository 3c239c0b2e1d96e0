"""A generation as its client should get it: without what came before a resumed stream was cut, and no faster than asked."""

import asyncio
from collections.abc import Callable

from service.generation.engine import EngineStopped
from service.generation.output_queue import Chunk, concatenated, cut
from service.generation.request import Generation

TICK = 0.01  # seconds: a paced reader gets at most one chunk in each
LONGEST = 10.0  # seconds that a paced reader waits at a stretch, so that its stream can be kept alive
NAP = 0.25  # seconds after which a waiting one looks whether everything is over


class Reader:
    """Reads one generation; `skip` characters are left out, and `pace` is in characters a second.

    The engine generates at its own speed whatever the pace: a slow answer holds no slot. over: says why everything ends, once
    it does, though the generation itself may have ended long before.
    """

    def __init__(
        self, generation: Generation, *, skip: int = 0, pace: float | None = None, over: Callable[[], str | None] = lambda: None
    ) -> None:
        self.generation, self._over = generation, over
        self._skip, self._pace = skip, pace
        self._pending = Chunk([])
        self._released = 0
        self._start: float | None = None  # when the first character was released, by the loop's clock
        self._finished = False  # nothing comes after what is pending
        self.ended = False  # nothing comes any more

    async def read(self) -> Chunk:
        """The next characters; none when woken, or at the end. Raises what ended the generation, after all before it is read."""
        if self._pace is None:
            return await self._next()
        if not self._pending.characters:
            self._pending = await self._next()
            self._finished, self.ended = self.ended, False
        chunk = await self._due(self._pace)
        self.ended = self._finished and not self._pending.characters
        return chunk

    async def read_all(self) -> Chunk:
        """All that is left. Raises what ended the generation."""
        chunks = []
        while not self.ended:
            chunks.append(await self.read())
        probabilities = [chunk.log_probabilities for chunk in chunks if chunk.log_probabilities is not None]
        characters = [character for chunk in chunks for character in chunk.characters]
        return Chunk(characters, concatenated(probabilities) if probabilities else None)

    async def _next(self) -> Chunk:
        while True:
            chunk = await self.generation.output.get()
            reason = self.generation.output.finish_reason
            self.ended = reason is not None and (reason != "error" or not chunk.characters)
            skipped = min(self._skip, len(chunk.characters))
            self._skip -= skipped
            chunk = cut(chunk, skipped, len(chunk.characters))
            if chunk.characters or self.ended or not skipped:
                return chunk

    async def _due(self, pace: float) -> Chunk:
        """As much of what is pending as is due by now, and at least one character if it is due soon."""
        if not self._pending.characters:
            return self._pending
        loop = asyncio.get_running_loop()
        self._start = loop.time() if self._start is None else self._start
        due = max(self._start + self._released / pace, loop.time() + (TICK if self._released else 0))
        patience = loop.time() + LONGEST
        while loop.time() < min(due, patience):
            await asyncio.sleep(min(due - loop.time(), NAP))
            if why := self._over():
                raise EngineStopped(why)
            if self.generation.output.error:
                raise self.generation.output.error
        if loop.time() < due:
            return Chunk([])
        count = max(1, int((loop.time() - self._start) * pace) + 1 - self._released)
        chunk = cut(self._pending, 0, min(count, len(self._pending.characters)))
        self._pending = cut(self._pending, len(chunk.characters), len(self._pending.characters))
        self._released += len(chunk.characters)
        return chunk
