"""The loop: admit, decode, deliver, in a thread of its own; and its async face.

One call of the decoder advances everybody who has a slot; the characters it chose are handed to their readers on the event loop.
"""

import asyncio
import logging
import threading
import time
from typing import Protocol

from service.generation.decoder import Decoder
from service.generation.prompt_cache import PromptCache
from service.generation.request import FinishReason, Generation, Piece, Status
from service.generation.scheduler import Output, QueueFull, Scheduler

log = logging.getLogger(__name__)


class EngineStopped(Exception):
    """The engine takes no more work and has ended what it had."""


class EngineFailed(EngineStopped):
    """Its thread died."""


class Observer(Protocol):
    """Hears, on the event loop, what an engine does."""

    def called(self, rows: int) -> None:
        """A call has advanced this many generations."""

    def delivered(self, generation: Generation, characters: int, now: float) -> None:
        """A generation's reader can read so many more, at least one, from `now` on; `generation.delivered` is the time before."""

    def ended(self, generation: Generation, reason: FinishReason) -> None: ...


class Engine:
    """Generates for many at once with one decoder. `submit`, `cancel` and readers belong to the event loop `loop`."""

    def __init__(
        self,
        decoder: Decoder,
        loop: asyncio.AbstractEventLoop,
        *,
        queue_limit: int,
        chunk: int,
        call_seconds: float,
        prompt_cache: int,
        observer: Observer | None = None,
    ) -> None:
        """queue_limit: generations that may wait for a slot; chunk and call_seconds: most steps in a call, and about how
        long it may take; prompt_cache: bytes for prompts' states."""
        self.decoder, self._loop, self._observer = decoder, loop, observer  # the decoder is there until the thread ends
        self.slots = decoder.slots
        self.prompts = PromptCache(prompt_cache)
        self._scheduler = Scheduler(decoder.slots, queue_limit, self.prompts)
        self._speed = Speed(chunk, call_seconds)
        self._work = threading.Condition()  # guards the scheduler and `stopped`
        self.stopped: str | None = None  # why no more work is taken
        self.failed = False  # that is why
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self, why: str) -> None:
        """Ends every generation with EngineStopped and accepts no more; returns at once."""
        self._end(why, EngineStopped)

    def _end(self, why: str, error: type[EngineStopped]) -> None:
        with self._work:
            self.stopped = self.stopped or why
            everybody = [*self._scheduler.running.values(), *self._scheduler.waiting]
            for generation in everybody:
                self._scheduler.remove(generation)
            self._work.notify()
        self._on_loop([Output(generation, Piece([]), "error") for generation in everybody], error(why))

    def end_if_idle(self, why: str) -> None:
        """The same, unless a generation has a slot or waits for one."""
        with self._work:
            idle = not self._scheduler.running and not self._scheduler.waiting
        if idle:
            self.end(why)

    def join(self) -> None:
        """Waits, once it is ended, for the call under way."""
        self._thread.join()

    @property
    def capacity(self) -> int:
        """Generations that it can have at the same time, including those that wait."""
        return self.slots + self.queue_limit

    @property
    def queue_limit(self) -> int:
        """Generations that may wait for a slot."""
        return self._scheduler.queue_limit

    def submit(self, *generations: Generation) -> None:
        """Queues all of them; their characters come through their `read`. Raises QueueFull or EngineStopped."""
        with self._work:
            if self.stopped:
                raise EngineStopped(self.stopped)
            if not self._scheduler.has_room(len(generations)):
                raise QueueFull(self._speed.seconds_for(self._scheduler.work))
            self._scheduler.add(*generations)
            self._work.notify()

    def cancel(self, generation: Generation) -> None:
        """Frees its slot, from the next call on. Does nothing to one that has finished."""
        with self._work:
            if generation.status is Status.FINISHED:
                return
            self._scheduler.remove(generation)
        generation.deliver(Piece([]), "cancelled")
        if self._observer:
            self._observer.ended(generation, "cancelled")

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
                    batch = self._scheduler.schedule(self._speed.steps(self._scheduler.expected))
                if batch is not None:
                    start = time.perf_counter()
                    decoded = self.decoder.decode(batch)
                    self._speed.measured(batch.forced.shape, time.perf_counter() - start)
                    with self._work:
                        outputs = self._scheduler.update(decoded)
                    self._on_loop(outputs, rows=len(batch.slots))
        except Exception as error:
            log.exception("the engine's thread died")
            self.failed = True
            self._end(f"the engine failed: {error!r}", EngineFailed)
        finally:
            del self.decoder  # whoever still reads what was generated, slowly perhaps, is not to keep the weights

    def _on_loop(self, outputs: list[Output], error: Exception | None = None, rows: int = 0) -> None:
        """Delivers on the event loop, with one wake-up for all; once that is closed there are no readers left."""

        def deliver() -> None:
            for generation, piece, reason in outputs:
                if generation.finish_reason is None:  # not cancelled while a call was under way
                    generation.deliver(piece, reason, error)
                    self._observe(generation, len(piece.characters), reason)
            if self._observer and rows:
                self._observer.called(rows)

        try:
            self._loop.call_soon_threadsafe(deliver)
        except RuntimeError:
            log.debug("nobody is left to deliver to")

    def _observe(self, generation: Generation, characters: int, reason: FinishReason | None) -> None:
        if self._observer and characters:
            now = time.perf_counter()
            self._observer.delivered(generation, characters, now)
            generation.delivered = now
        if self._observer and reason:
            self._observer.ended(generation, reason)


class Speed:
    """How long calls take, as measured, and from that how many steps the next may have.

    A stream gets its characters once a call and a newcomer waits for one to end, so calls are to take about the same time
    however many there are to serve: few steps for many on a slow machine, up to `longest` for one on a fast one.
    """

    WEIGHT = 0.2  # of the latest call in the moving averages

    def __init__(self, longest: int, call_seconds: float) -> None:
        self._longest, self._call_seconds = longest, call_seconds
        self._step_seconds: dict[int, float] = {}  # by the batch size's power of two
        self._characters_per_second: float | None = None

    def steps(self, rows: int) -> int:
        """Steps that fit a call with that many rows; few where that has not been measured yet."""
        seconds = self._step_seconds.get(rows.bit_length())
        return min(self._longest, 4 if seconds is None else max(1, round(self._call_seconds / seconds)))

    def measured(self, shape: tuple[int, ...], seconds: float) -> None:
        """A call of shape [steps, rows] took that long."""
        steps, rows = shape
        size = rows.bit_length()
        self._step_seconds[size] = self._average(self._step_seconds.get(size), seconds / steps)
        self._characters_per_second = self._average(self._characters_per_second, steps * rows / seconds)

    def seconds_for(self, characters: int) -> float:
        """How long that much will take at the speed of the last calls; a second where none has been measured."""
        return characters / self._characters_per_second if self._characters_per_second else 1.0

    def _average(self, before: float | None, value: float) -> float:
        return value if before is None else before + self.WEIGHT * (value - before)
