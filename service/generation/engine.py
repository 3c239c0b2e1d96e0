"""EngineCore in a thread of its own, delivered on the event loop."""

import asyncio
import logging
import threading
import time
from contextlib import suppress

from service.generation.backend import Backend
from service.generation.core import EngineCore
from service.generation.output_queue import Chunk, FinishReason
from service.generation.request import Generation
from service.generation.scheduler import Output

log = logging.getLogger(__name__)

ITERATION_TIMEOUT = 60.0  # seconds; an iteration takes about 14 ms, and slow preparations such as compiling come before
TICKS = 60  # in that time


class EngineStopped(Exception):
    """The engine accepts no more work and has ended what it had."""


class EngineFailed(EngineStopped):
    """The engine's thread died."""


class Observer:
    """Called on the event loop with what an engine does. This base class does nothing."""

    def looked_up(self, prompts: int, hits: int) -> None:
        """So many prompts were looked up in the prompt cache, and so many of them were there."""

    def iterated(self, rows: int) -> None:
        """An iteration has advanced this many generations."""

    def delivered(self, generation: Generation, characters: int, now: float) -> None:
        """New characters, at least one, are in the output. `generation.last_delivery_at` is still the time of those before."""

    def ended(self, generation: Generation, reason: FinishReason) -> None:
        """No more characters will come."""


class Engine:
    """Generates for many clients at once. `submit`, `cancel` and outputs belong to the event loop `loop`."""

    def __init__(
        self,
        core: EngineCore,
        loop: asyncio.AbstractEventLoop,
        *,
        observer: Observer | None = None,
        iteration_timeout: float = ITERATION_TIMEOUT,
    ) -> None:
        """iteration_timeout: seconds after which an iteration counts as hung."""
        self.slots, self.queue_limit = core.backend.slots, core.scheduler.queue_limit
        self._core, self._changed, self._loop = core, core.changed, loop  # `_changed` guards `stopped` too
        self._observer = observer or Observer()
        self.stopped: str | None = None  # why no more work is accepted
        self.failed = False  # the thread died
        self.hung: str | None = None  # why no work is accepted until the iteration under way returns
        self._tick = iteration_timeout / TICKS
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._watch, 0, 0)

    def end(self, why: str, error: type[EngineStopped] = EngineStopped) -> None:
        """Ends every generation with an error and accepts no more. Returns at once."""
        with self._changed:
            self.stopped = self.stopped or why
            outputs = self._core.remove_all()
            self._changed.notify()
        self._deliver(outputs, error(why))

    def end_if_idle(self, why: str) -> None:
        """The same, unless a generation has a slot or waits for one."""
        with self._changed:
            idle = not self._core.has_work
        if idle:
            self.end(why)

    def join(self) -> None:
        """Waits, after `end`, for the iteration under way."""
        self._thread.join()

    @property
    def capacity(self) -> int:
        """The most generations that it accepts at a time, including those that wait."""
        return self.slots + self.queue_limit

    @property
    def running(self) -> int:
        """Generations that have a slot."""
        return len(self._core.scheduler.running)

    @property
    def waiting(self) -> int:
        return len(self._core.scheduler.waiting)

    @property
    def backend(self) -> Backend:
        return self._core.backend

    def submit(self, *generations: Generation) -> None:
        """Queues all of them; their characters arrive in their `output`. Raises QueueFull or EngineStopped."""
        with self._changed:
            if why := self.stopped or self.hung:
                raise EngineStopped(why)
            self._core.submit(*generations)
            self._changed.notify()

    def cancel(self, generation: Generation) -> None:
        """Frees its slot from the next iteration on. Does nothing to one that has finished."""
        if self._core.cancel(generation):
            generation.output.put(Chunk([]), "cancelled")
            self._observer.ended(generation, "cancelled")

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self.stopped or self._core.has_work)
                    if self.stopped:
                        return
                outputs, rows = self._core.step()
                self._recover()
                if rows:
                    self._deliver(outputs, rows=rows, lookups=self._core.prompts.drain_lookups())
        except Exception as error:
            log.exception("the engine's thread died")
            self.failed, self.hung = True, None
            self.end(f"the engine failed: {error!r}", EngineFailed)
        finally:
            del self._core.backend  # a slow client that still reads its text must not keep the weights in memory

    def _watch(self, iteration: int, ticks: int) -> None:
        """Runs on the event loop at each tick, and notices when the same iteration has been under way for too many of them.

        It counts ticks, not seconds: a suspended machine or a paused container has none.
        """
        if self.stopped:
            return
        ticks = ticks + 1 if self._core.decoding and iteration == self._core.num_iterations else 0
        if ticks == TICKS:
            self._hang()
        self._loop.call_later(self._tick, self._watch, self._core.num_iterations, ticks)

    def _hang(self) -> None:
        with self._changed:
            if not self._core.decoding:
                return
            self.hung = f"the backend has not returned for {self._tick * TICKS:g} s"
            outputs = self._core.remove_all()
        log.error("%s; requests are refused until it does", self.hung)
        self._deliver(outputs, EngineStopped(self.hung))

    def _recover(self) -> None:
        if self.hung is not None:
            log.warning("the backend has returned after all; requests are accepted again")
            self.hung = None

    def _deliver(
        self, outputs: list[Output], error: Exception | None = None, rows: int = 0, lookups: tuple[int, int] = (0, 0)
    ) -> None:
        """Schedules one event-loop callback that delivers all outputs. If the loop is closed, nobody is listening."""

        def deliver() -> None:
            self._observer.looked_up(*lookups)
            for generation, chunk, reason in outputs:
                if generation.output.finish_reason is None:  # not cancelled meanwhile
                    generation.output.put(chunk, reason, error)
                    self._observe(generation, len(chunk.characters), reason)
            if rows:
                self._observer.iterated(rows)

        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(deliver)

    def _observe(self, generation: Generation, characters: int, reason: FinishReason | None) -> None:
        if characters:
            now = time.perf_counter()
            self._observer.delivered(generation, characters, now)
            generation.last_delivery_at = now
        if reason:
            self._observer.ended(generation, reason)
