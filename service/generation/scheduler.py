"""Who runs: the waiting queue, the slots, and what the next call does for each. Pure: no model, no threads, no clock but times."""

import time
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.generation.decoder import Batch
from service.generation.request import Generation, Status


class QueueFull(Exception):
    """All slots are taken and the waiting queue is at its limit."""


@dataclass(frozen=True)
class Share:
    """What one generation has of a scheduled call: `forced` steps reading its prompt, then `sampled` ones it keeps."""

    generation: Generation
    forced: int
    sampled: int


class Scheduler:
    """Gives slots to generations, first come first served. `schedule`, then `update` with what the call chose, in turns."""

    def __init__(self, slots: int, queue_limit: int) -> None:
        self.queue_limit = queue_limit
        self.waiting: deque[Generation] = deque()
        self.running: dict[int, Generation] = {}
        self._free = list(range(slots))[::-1]
        self._shares: list[Share] = []

    def add(self, generation: Generation) -> None:
        """Raises QueueFull when it would wait behind more than the limit."""
        if len(self.waiting) >= self.queue_limit + len(self._free):
            raise QueueFull
        self.waiting.append(generation)

    def remove(self, generation: Generation) -> None:
        """Takes it off the queue or its slot; what a call under way does for it is dropped."""
        if generation.status is Status.WAITING:
            self.waiting.remove(generation)
        for slot, running in list(self.running.items()):
            if running is generation:
                self._release(slot)
        generation.status = Status.FINISHED

    def schedule(self, longest: int) -> Batch | None:
        """The next call, of at most `longest` steps, or None when nobody is here.

        It ends at the first character of whoever waits for one, so that this leaves at once, and no later than the last
        step that anybody needs.
        """
        while self.waiting and self._free:
            generation = self.waiting.popleft()
            generation.status, generation.admitted = Status.RUNNING, time.perf_counter()
            self.running[self._free.pop()] = generation
        if not self.running:
            return None

        running = self.running.values()
        first = min((g.unread_prompt + 1 for g in running if not g.generated), default=longest)
        steps = min(longest, first, max(g.unread_prompt + g.remaining for g in running))
        shape = (steps, len(running))
        batch = Batch(
            slots=np.fromiter(self.running, np.int32),
            fresh=np.array([g.position == 0 for g in running]),
            inputs=np.array([g.last if g.position else g.prompt[0] for g in running], np.int32),
            forced=np.full(shape, -1, np.int32),
            uniforms=np.zeros(shape, np.float32),
            temperatures=np.array([g.temperature for g in running]),
        )
        self._shares = []
        for b, generation in enumerate(running):
            forced = min(generation.unread_prompt, steps)
            sampled = min(steps - forced, generation.remaining)
            start = len(generation.prompt) - generation.unread_prompt
            batch.forced[:forced, b] = generation.prompt[start : start + forced]
            batch.uniforms[forced : forced + sampled, b] = generation.uniforms.random(sampled, np.float32)
            self._shares.append(Share(generation, forced, sampled))
        return batch

    def update(self, chosen: NDArray[np.int32]) -> list[tuple[Generation, list[int]]]:
        """Moves on everybody in the last scheduled call, of which `chosen` [K, B] came; what was generated for whom.

        Who has all its characters is finished and its slot free.
        """
        now, outputs = time.perf_counter(), []
        for b, (share, last) in enumerate(zip(self._shares, chosen[-1].tolist(), strict=True)):
            generation = share.generation
            if generation.status is Status.FINISHED:  # removed during the call
                continue
            generation.position = max(generation.position, 1) + share.forced
            generation.last = last
            if not share.sampled:
                continue
            generation.first = generation.first or now
            generation.generated += share.sampled
            if not generation.remaining:
                generation.finished = now
                self.remove(generation)
            outputs.append((generation, chosen[share.forced : share.forced + share.sampled, b].tolist()))
        return outputs

    def _release(self, slot: int) -> None:
        del self.running[slot]
        self._free.append(slot)
