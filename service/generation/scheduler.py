"""The waiting queue, the slots, and what the next iteration does for each slot.

Knows no model and no threads. It reads the clock only to stamp times and to check deadlines.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from service.generation.backend import Batch, Decoded, LogProbabilities, State
from service.generation.output_queue import Chunk, FinishReason
from service.generation.prompt_cache import PromptCache
from service.generation.request import Generation, Status


class QueueFull(Exception):
    """Too much is waiting. In about `seconds` all of it will be done."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class ScheduledRow(NamedTuple):
    """One generation's part of an iteration: `forced` steps read its prompt, then it keeps the results of `sampled` steps."""

    generation: Generation
    forced: int
    sampled: int
    snapshots_prompt: bool  # the snapshot is the state after its prompt


class Output(NamedTuple):
    """New characters of a generation; `reason` if they are the last."""

    generation: Generation
    chunk: Chunk
    reason: FinishReason | None


class Scheduler:
    """Gives slots to generations, first come, first served. Call `schedule` and `update` in turns."""

    def __init__(self, slots: int, queue_limit: int, prompts: PromptCache, clock: Callable[[], float] = time.perf_counter) -> None:
        self.queue_limit, self.prompts, self._clock = queue_limit, prompts, clock
        self.waiting: deque[Generation] = deque()
        self.running: dict[int, Generation] = {}
        self._free = list(range(slots))[::-1]
        self._rows: list[ScheduledRow] = []

    def has_room(self, count: int) -> bool:
        """`count` more generations would find a slot or a place in the queue."""
        return len(self.waiting) + count <= self.queue_limit + len(self._free)

    def add(self, *generations: Generation) -> None:
        """Queues generations. The caller checks `has_room` first."""
        self.waiting.extend(generations)

    def remove(self, generation: Generation) -> None:
        """Takes a generation out of the queue or its slot. Results of the iteration under way are discarded for it."""
        if generation.status is Status.WAITING:
            self.waiting.remove(generation)
        for slot, running in list(self.running.items()):
            if running is generation:
                del self.running[slot]
                self._free.append(slot)
        if generation.prompt.prefilled_by is generation:
            generation.prompt.prefilled_by = None
        generation.status = Status.FINISHED

    @property
    def expected(self) -> int:
        """About how many rows the next iteration will have. Those that share a prompt may have to wait."""
        return min(len(self.running) + len(self.waiting), len(self.running) + len(self._free))

    @property
    def work(self) -> int:
        """Characters still to be read or sampled for all generations."""
        return sum(g.num_prompt_left + g.remaining for g in (*self.running.values(), *self.waiting))

    def schedule(self, max_steps: int) -> Batch | None:
        """The next iteration, of at most `max_steps` steps, or None when there is nothing to do."""
        starting = self._admit()
        if not self.running:
            return None
        running = [(generation, generation.num_prompt_left) for generation in self.running.values()]
        steps = _num_steps(running, max_steps)
        shape = (steps, len(running))
        forced, uniforms = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
        inputs, snapshot_at = np.empty(len(running), np.int32), np.full(len(running), -1, np.int32)
        starts: dict[int, State | None] = {}
        self._rows = []
        for b, (generation, prompt_left) in enumerate(running):
            ids = generation.prompt.ids
            if generation in starting:
                starts[b] = starting[generation]
            inputs[b] = generation.next_input
            reads = min(prompt_left, steps)
            samples = min(steps - reads, generation.remaining)
            if reads:
                forced[:reads, b] = ids[len(ids) - prompt_left : len(ids) - prompt_left + reads]
            if samples:
                uniforms[reads : reads + samples, b] = generation.uniforms(samples)
            snapshots_prompt = reads < steps and self._needs_snapshot(generation)
            if snapshots_prompt or generation.returns_state:
                snapshot_at[b] = reads if snapshots_prompt else 0
            self._rows.append(ScheduledRow(generation, reads, samples, snapshots_prompt))
        return Batch(
            slots=np.fromiter(self.running, np.int32),
            starts=starts,
            inputs=inputs,
            forced=forced,
            uniforms=uniforms,
            sampling=[generation.sampling for generation, _ in running],
            snapshot_at=snapshot_at,
            top_logprobs=max((g.top_logprobs for g, _ in running if g.top_logprobs is not None), default=None),
            logprob_rows=[b for b, (generation, _) in enumerate(running) if generation.top_logprobs is not None],
            histories={b: generation.history for b, (generation, _) in enumerate(running) if generation.history},
        )

    def update(self, decoded: Decoded) -> list[Output]:
        """Applies the iteration's results and returns the outputs. Frees the slots of finished and expired generations."""
        now, outputs = self._clock(), []
        places = {b: i for i, b in enumerate(b for b, row in enumerate(self._rows) if row.generation.top_logprobs is not None)}
        for b, (row, chosen) in enumerate(zip(self._rows, decoded.chosen.T.tolist(), strict=True)):
            generation, prompt = row.generation, row.generation.prompt
            chosen = chosen[: row.forced + generation.num_characters(chosen[row.forced : row.forced + row.sampled])]
            if row.snapshots_prompt:
                prompt.state, prompt.prefilled_by = decoded.snapshots[b], None
                if prompt.initial_state is None and not prompt.scored:
                    self.prompts.put(prompt.ids, decoded.snapshots[b])
            if generation.status is Status.FINISHED:  # removed during the call
                continue
            if generation.returns_state:
                state = None if row.snapshots_prompt else decoded.snapshots[b]
                generation.advance(state, chosen)
            generation.num_prompt_read = max(generation.num_prompt_read, 1) + row.forced
            generation.next_input = next(iter(generation.known(chosen)[-1:]), generation.next_input)
            if prompt.scored and row.forced:
                read = _probabilities(decoded, slice(row.forced), places.get(b), generation.top_logprobs)
                prompt.log_probabilities += [read] if read else []
            chunk, reason = Chunk([]), None
            if row.sampled:
                generation.first_token_at = generation.first_token_at or now
                span = slice(row.forced, len(chosen))
                chunk, reason = generation.add(
                    Chunk(chosen[span], _probabilities(decoded, span, places.get(b), generation.top_logprobs))
                )
            elif not generation.remaining and not generation.num_prompt_left and not self._leaves_state(generation):
                reason = "length"
            if row.sampled or reason:
                outputs.append(Output(generation, chunk, reason))
            if reason:
                self._finish(generation, now)
        return outputs + self._expired(now)

    def _admit(self) -> Mapping[Generation, State | None]:
        """Assigns free slots to waiting generations. Returns each new generation's start state."""
        starting: dict[Generation, State | None] = {}
        if not self._free:
            return starting
        for generation in list(self.waiting):
            if not self._free:
                break
            prompt = generation.prompt
            if prompt.shared and prompt.prefilled_by is not None:  # another generation is reading it
                continue
            self.waiting.remove(generation)
            generation.status, generation.scheduled_at = Status.RUNNING, self._clock()
            self.running[self._free.pop()] = generation
            if prompt.state is None and prompt.initial_state is None and not prompt.scored:
                prompt.state = self.prompts.get(prompt.ids)
                prompt.num_cached = 0 if prompt.state is None else len(prompt.ids) - 1
            if prompt.state is None and len(prompt.ids) > 1:
                prompt.prefilled_by = generation
                prompt.log_probabilities.clear()  # a cancelled one may have begun to read it
            if prompt.state is not None:
                generation.num_prompt_read = len(prompt.ids)
            generation.next_input = int(prompt.ids[max(generation.num_prompt_read, 1) - 1])
            starting[generation] = prompt.initial_state if prompt.state is None else prompt.state
            generation.begin(starting[generation])
        return starting

    def _needs_snapshot(self, generation: Generation) -> bool:
        """The state after its prompt is needed for others, and not known yet."""
        prompt = generation.prompt
        cached = self.prompts.limit > 0 and prompt.initial_state is None and not prompt.scored  # scored ones are read again
        return prompt.prefilled_by is generation and prompt.state is None and (prompt.shared or cached)

    def _leaves_state(self, generation: Generation) -> bool:
        """It may not end yet: others, or the request, use the state of the shared prompt."""
        return generation.prompt.shared and self._needs_snapshot(generation)

    def _expired(self, now: float) -> list[Output]:
        active = [*self.running.values(), *self.waiting]
        expired = [g for g in active if g.deadline is not None and g.deadline <= now and g.num_emitted >= g.already_sent]
        for generation in expired:
            self._finish(generation, now)
        return [Output(generation, generation.release(), "time") for generation in expired]

    def _finish(self, generation: Generation, now: float) -> None:
        generation.finished_at = now
        self.remove(generation)


def _num_steps(running: Sequence[tuple[Generation, int]], max_steps: int) -> int:
    """The length of an iteration, from each row's generation and the prompt characters that it still has to read.

    To keep time to first token low, an iteration stops at the step that produces a new request's first character. If several new
    requests get there within `max_steps`, it stops at the last of them. It never exceeds the longest remaining request.
    """
    firsts = [prompt_left + 1 for generation, prompt_left in running if not generation.num_sampled]
    reached = max((first for first in firsts if first <= max_steps), default=max_steps)
    # Reading a shared prompt takes one step more, though nothing is sampled, so that its state is kept for the others.
    longest = max(left + max(generation.remaining, generation.prompt.shared) for generation, left in running)
    return max(1, min(reached, longest))


def _probabilities(decoded: Decoded, span: slice, place: int | None, top: int | None) -> LogProbabilities | None:
    """place: of the row among those that asked for log-probabilities."""
    p = decoded.log_probabilities
    if p is None or place is None:
        return None
    return LogProbabilities(
        p.chosen[span, place].copy(), p.top_ids[span, place, :top].copy(), p.top_values[span, place, :top].copy()
    )
