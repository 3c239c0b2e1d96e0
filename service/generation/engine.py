"""The loop: admit, decode, deliver, in a thread of its own; and its async face.

One call of the backend advances everybody who has a slot; the characters it chose are handed to their readers on the event loop.
"""

import asyncio
import logging
import threading
import time
from contextlib import suppress
from typing import Protocol

from service.generation.decoder import Batch, Decoder
from service.generation.delivery import Delivery
from service.generation.prompt_cache import PromptCache
from service.generation.request import FinishReason, Generation, Piece, Status
from service.generation.scheduler import Output, QueueFull, Scheduler

log = logging.getLogger(__name__)

CALL_LIMIT = 60.0  # seconds; a call takes some 30 ms, and what takes longer, compiling, comes before an engine starts
TICKS = 60  # in that time


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
        event_seconds: float = 0,
        observer: Observer | None = None,
        call_limit: float = CALL_LIMIT,
    ) -> None:
        """queue_limit: generations that may wait for a slot; chunk and call_seconds: most steps in a call, and about how
        long it may take; prompt_cache: bytes for prompts' states; event_seconds: see `Delivery`; call_limit: seconds after
        which a call hangs."""
        self.decoder, self._loop, self._observer = decoder, loop, observer  # the decoder is there until the thread ends
        self.slots = decoder.slots
        self.prompts = PromptCache(prompt_cache)
        self._scheduler = Scheduler(decoder.slots, queue_limit, self.prompts)
        self._speed = Speed(chunk, call_seconds)
        self._delivery = Delivery(event_seconds)
        self._work = threading.Condition()  # guards the scheduler and `stopped`
        self.stopped: str | None = None  # why no more work is taken
        self.failed = False  # that is why
        self.hung: str | None = None  # why no work is taken until the call under way has returned
        self._calls, self._calling = 0, False  # so far; whether the last of them is under way
        self._tick = call_limit / TICKS
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()
        with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(self._watch, 0, 0)

    def end(self, why: str) -> None:
        """Ends every generation with EngineStopped and accepts no more; returns at once."""
        self._end(why, EngineStopped)

    def _end(self, why: str, error: type[EngineStopped]) -> None:
        with self._work:
            self.stopped = self.stopped or why
            outputs = self._remove_all()
            self._work.notify()
        self._on_loop(outputs, error(why))

    def _remove_all(self) -> list[Output]:
        everybody = [*self._scheduler.running.values(), *self._scheduler.waiting]
        for generation in everybody:
            self._scheduler.remove(generation)
        return [Output(generation, generation.undelivered, "error") for generation in everybody]

    def _watch(self, call: int, ticks: int) -> None:
        """On the event loop, at each tick: notices that the same call is under way at too many of them.

        Ticks are counted, and not seconds: a machine that was suspended, or a container that was paused, has had no ticks.
        """
        if self.stopped:
            return
        ticks = ticks + 1 if self._calling and call == self._calls else 0
        if ticks == TICKS:
            self._hang()
        self._loop.call_later(self._tick, self._watch, self._calls, ticks)

    def _hang(self) -> None:
        with self._work:
            if not self._calling:
                return
            self.hung = f"a call of the backend has not returned for {self._tick * TICKS:g} s"
            outputs = self._remove_all()
        log.error("%s; requests are refused until it does", self.hung)
        self._on_loop(outputs, EngineStopped(self.hung))

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
            if why := self.stopped or self.hung:
                raise EngineStopped(why)
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
                    self._calls, self._calling = self._calls + 1, batch is not None
                if batch is not None:
                    self._on_loop(self._call(batch), rows=len(batch.slots))
        except Exception as error:
            log.exception("the engine's thread died")
            self.failed, self.hung = True, None
            self._end(f"the engine failed: {error!r}", EngineFailed)
        finally:
            del self.decoder  # whoever still reads what was generated, slowly perhaps, is not to keep the weights

    def _call(self, batch: Batch) -> list[Output]:
        start = time.perf_counter()
        decoded = self.decoder.decode(batch)
        seconds = time.perf_counter() - start
        with self._work:
            self._calling = False
            if self.hung is None:
                self._speed.measured(batch.forced.shape, seconds)
            else:
                log.warning("the call has returned after all; requests are accepted again")
                self.hung = None
            return self._delivery.due(self._scheduler.update(decoded), time.perf_counter(), len(batch.slots))

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
