"""The loop: admit, decode, deliver, in a thread of its own; and its async face.

One call of the decoder advances everybody who has a slot; what it chose is handed to their readers on the event loop.
"""

import asyncio
import logging
import threading

from service.generation.decoder import Decoder
from service.generation.request import FinishReason, Generation, Status
from service.generation.scheduler import Scheduler

log = logging.getLogger(__name__)


class EngineStopped(Exception):
    """The engine takes no more work and has ended what it had: it was stopped, or its thread died."""


class Engine:
    """Generates for many at once with one decoder. `submit`, `cancel` and readers belong to the event loop `loop`."""

    def __init__(self, decoder: Decoder, loop: asyncio.AbstractEventLoop, *, queue_limit: int, chunk: int) -> None:
        """queue_limit: generations that may wait for a slot; chunk: most steps in a call."""
        self._decoder, self._loop, self._chunk = decoder, loop, chunk
        self._scheduler = Scheduler(decoder.slots, queue_limit)
        self._work = threading.Condition()  # guards the scheduler and `stopped`
        self.stopped: str | None = None  # why no more work is taken
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self, why: str) -> None:
        """Ends every generation with EngineStopped and takes no more; returns at once."""
        with self._work:
            self.stopped = self.stopped or why
            everybody = [*self._scheduler.running.values(), *self._scheduler.waiting]
            for generation in everybody:
                self._scheduler.remove(generation)
            self._work.notify()
        self._on_loop([(generation, [], "error", EngineStopped(why)) for generation in everybody])

    def join(self) -> None:
        """Waits, once it is ended, for the call under way."""
        self._thread.join()

    def submit(self, generation: Generation) -> None:
        """Queues a generation; its characters come through its `read`. Raises QueueFull or EngineStopped."""
        with self._work:
            if self.stopped:
                raise EngineStopped(self.stopped)
            self._scheduler.add(generation)
            self._work.notify()

    def cancel(self, generation: Generation) -> None:
        """Frees its slot, from the next call on. Does nothing to one that has finished."""
        with self._work:
            if generation.status is Status.FINISHED:
                return
            self._scheduler.remove(generation)
        generation.deliver([], "cancelled")

    @property
    def running(self) -> int:
        """Generations that have a slot."""
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        return len(self._scheduler.waiting)

    def _run(self) -> None:
        try:
            while True:
                with self._work:
                    self._work.wait_for(lambda: self.stopped or self._scheduler.waiting or self._scheduler.running)
                    if self.stopped:
                        return
                    batch = self._scheduler.schedule(self._chunk)
                if batch is not None:
                    chosen = self._decoder.decode(batch)
                    with self._work:
                        outputs = self._scheduler.update(chosen)
                    self._on_loop([(g, ids, "length" if g.finished else None, None) for g, ids in outputs])
        except Exception as error:
            log.exception("the engine's thread died")
            self.end(f"the engine failed: {error!r}")

    def _on_loop(self, deliveries: list[tuple[Generation, list[int], FinishReason | None, Exception | None]]) -> None:
        """Delivers on the event loop, with one wake-up for all; a loop that has closed has no readers left."""

        def deliver() -> None:
            for generation, characters, reason, error in deliveries:
                generation.deliver(characters, reason, error)

        try:
            self._loop.call_soon_threadsafe(deliver)
        except RuntimeError:
            log.debug("nobody is left to deliver to")
