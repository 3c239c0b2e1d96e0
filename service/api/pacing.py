"""A generation as its client receives it: without what a resumed stream had before, and no faster than its pace."""

import asyncio
from collections.abc import Callable

from service.generation.engine import EngineStopped
from service.generation.output_queue import Chunk, concatenated, cut
from service.generation.request import Generation
from service.weather import Delays

TICK = 0.01  # seconds: a paced reader gets at most one chunk in each
LONGEST_WAIT = 10.0  # seconds of one `read` of a paced reader, so that its stream can be kept alive
POLL = 0.25  # seconds between two checks of a paced reader whether the service has stopped


class PacedReader:
    """Reads one generation. The engine generates at its own speed, so a slow pace holds no slot."""

    def __init__(
        self,
        generation: Generation,
        *,
        skip: int = 0,
        pace: float | None = None,
        stopped: Callable[[], str | None] = lambda: None,
    ) -> None:
        """skip: characters to leave out at the beginning. pace: characters a second. stopped: why the service has stopped."""
        self.generation, self._stopped = generation, stopped
        self._skip, self._pace = skip, pace
        self.delays: Delays | None = None  # of a fault plan
        self._pending = Chunk([])
        self._released = 0
        self._start: float | None = None  # time of the first release, by the event loop's clock
        self._finished = False  # nothing comes after what is pending
        self.ended = False  # nothing comes any more

    async def read(self) -> Chunk:
        """The next characters. An empty chunk when woken, and at the end.

        Raises the generation's error: at once with a pace, otherwise after all characters before it have been read.
        """
        if self._pace is None and self.delays is None:
            return await self._next()
        if not self._pending.characters and not self._finished:
            self._pending = await self._next()
            self._finished, self.ended = self.ended, False
            if not self._pending.characters and not self._finished:
                return self._pending
        if not await self._wait_until_due():
            return Chunk([])
        chunk = self._release()
        self.ended = self._finished and not self._pending.characters
        return chunk

    async def read_all(self) -> Chunk:
        """All that is left. Raises the generation's error."""
        chunks = []
        while not self.ended:
            chunks.append(await self.read())
        probabilities = [chunk.log_probabilities for chunk in chunks if chunk.log_probabilities is not None]
        characters = [character for chunk in chunks for character in chunk.characters]
        return Chunk(characters, concatenated(probabilities) if probabilities else None)

    async def _next(self) -> Chunk:
        output = self.generation.output
        while True:
            chunk = await output.get()
            reason = output.finish_reason
            self.ended = reason is not None and (reason != "error" or not chunk.characters)
            skipped = min(self._skip, len(chunk.characters))
            self._skip -= skipped
            chunk = cut(chunk, skipped, len(chunk.characters))
            if chunk.characters or self.ended or not skipped:
                return chunk

    async def _wait_until_due(self) -> bool:
        """Waits for the next pending character, or for the end of a text without any, for `LONGEST_WAIT` at most."""
        loop = asyncio.get_running_loop()
        self._start = loop.time() if self._start is None else self._start
        due = max(self._start + self._due(), loop.time() + (TICK if self._released and self._pending.characters else 0))
        patience = loop.time() + LONGEST_WAIT
        while loop.time() < min(due, patience):
            await asyncio.sleep(min(due - loop.time(), POLL))
            if why := self._stopped():
                raise EngineStopped(why)
            if self.generation.output.error:
                raise self.generation.output.error
        return loop.time() >= due

    def _due(self) -> float:
        """When the next character is due, in seconds after the start."""
        if not self._pending.characters:
            return self.delays.due(0) if self.delays and not self._released else 0
        return max(
            self._released / self._pace if self._pace else 0,
            self.delays.due(self._released) if self.delays else 0,
        )

    def _release(self) -> Chunk:
        """The pending characters that are due, at least one."""
        seconds = asyncio.get_running_loop().time() - (self._start or 0)
        most = len(self._pending.characters)
        count = most
        if self._pace:
            count = int(seconds * self._pace) + 1 - self._released
        if self.delays:
            count = min(count, self.delays.num_due(seconds, self._released + most) - self._released)
        chunk = cut(self._pending, 0, min(max(1, count), most))
        self._pending = cut(self._pending, len(chunk.characters), most)
        self._released += len(chunk.characters)
        return chunk
