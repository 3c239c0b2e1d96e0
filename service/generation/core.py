"""One model's generations, advanced by `EngineCore.step`: schedule, decode, update. Starts no thread and knows no event loop."""

import time
from collections.abc import Callable
from threading import Condition

from service.generation.backend import Backend
from service.generation.delivery import Delivery
from service.generation.output_queue import Chunk
from service.generation.prompt_cache import PromptCache
from service.generation.request import Generation, Status
from service.generation.scheduler import Output, QueueFull, Scheduler


class EngineCore:
    """Many generations, one backend. Other threads may call all but `step`, also while a step computes."""

    def __init__(
        self,
        backend: Backend,
        *,
        queue_limit: int = 0,
        max_steps: int = 512,
        iteration_seconds: float = 0.014,
        prompt_cache: int = 0,
        event_seconds: float = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """queue_limit: generations that may wait for a slot. max_steps, iteration_seconds: see `StepBudget`. prompt_cache: bytes
        for states of prompts. event_seconds: see `Delivery`.
        """
        self.backend = backend
        self.prompts = PromptCache(prompt_cache)
        self.changed = Condition()  # guards what `step` shares with other threads; it is not held while the backend computes
        self.decoding = False  # the backend computes
        self.num_iterations = 0
        self.scheduler = Scheduler(backend.slots, queue_limit, self.prompts, clock)
        self._budget = StepBudget(max_steps, iteration_seconds)
        self._delivery = Delivery(event_seconds)
        self._clock = clock
        self._interrupted = False  # what the backend computes is for generations that have been removed

    def submit(self, *generations: Generation) -> None:
        """Queues all of them, or none. Raises QueueFull."""
        with self.changed:
            if not self.scheduler.has_room(len(generations)):
                raise QueueFull(self._budget.seconds_for(self.scheduler.work))
            self.scheduler.add(*generations)

    def cancel(self, generation: Generation) -> bool:
        """Frees its slot. False: it had finished before."""
        with self.changed:
            if generation.status is Status.FINISHED:
                return False
            self._remove(generation)
            return True

    def remove_all(self) -> list[Output]:
        """Removes every generation. Returns what had been held back of each, as its end with an error."""
        with self.changed:
            self._interrupted = True
            active = [*self.scheduler.running.values(), *self.scheduler.waiting]
            return [Output(generation, self._remove(generation), "error") for generation in active]

    def step(self) -> tuple[list[Output], int]:
        """Runs one iteration. Returns (the outputs that are due, the rows that it advanced)."""
        with self.changed:
            batch = self.scheduler.schedule(self._budget.steps(self.scheduler.expected))
            if batch is None:
                return [], 0
            self._interrupted, self.decoding, self.num_iterations = False, True, self.num_iterations + 1
        start = self._clock()
        decoded = self.backend.decode(batch)
        now, rows = self._clock(), len(batch.slots)
        with self.changed:
            self.decoding = False
            if not self._interrupted:
                self._budget.measured(batch.forced.shape, now - start)
            return self._delivery.due(self.scheduler.update(decoded), now, rows), rows

    @property
    def has_work(self) -> bool:
        """A generation has a slot or waits for one."""
        return bool(self.scheduler.running or self.scheduler.waiting)

    def _remove(self, generation: Generation) -> Chunk:
        self.scheduler.remove(generation)
        return self._delivery.remove(generation)


class StepBudget:
    """How many steps the next iteration may have, from how long iterations took.

    A stream gets characters once an iteration, and a new request waits for one to end. So iterations take about the same time
    for any number of rows: few steps for many rows on a slow machine, up to `max_steps` for one row on a fast machine.
    """

    WEIGHT = 0.2  # of the latest iteration in the moving averages

    def __init__(self, max_steps: int, iteration_seconds: float) -> None:
        """iteration_seconds: about how long an iteration may take."""
        self._max_steps, self._iteration_seconds = max_steps, iteration_seconds
        self._seconds: dict[int, float] = {}  # of one step, by the power of two of the rows
        self._characters_per_second: float | None = None

    def steps(self, rows: int) -> int:
        """Steps that fit an iteration of that many rows; few if none has been measured."""
        seconds = self._seconds.get(rows.bit_length())
        return min(self._max_steps, 4 if seconds is None else max(1, round(self._iteration_seconds / seconds)))

    def measured(self, shape: tuple[int, ...], seconds: float) -> None:
        """Records how long an iteration of shape [steps, rows] took."""
        steps, rows = shape
        size = rows.bit_length()
        self._seconds[size] = self._average(self._seconds.get(size), seconds / steps)
        self._characters_per_second = self._average(self._characters_per_second, steps * rows / seconds)

    def seconds_for(self, characters: int) -> float:
        """How long that many characters will take at the measured rate; a second if there is none."""
        return characters / self._characters_per_second if self._characters_per_second else 1.0

    def _average(self, before: float | None, value: float) -> float:
        return value if before is None else before + self.WEIGHT * (value - before)
