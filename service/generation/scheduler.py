"""Who runs: the waiting queue, the slots, and what the next call does for each.

Knows no model and no threads; reads the clock only to stamp times and check deadlines.
"""

import time
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from service.generation.decoder import Batch, Decoded, LogProbabilities, State
from service.generation.prompt_cache import PromptCache
from service.generation.request import FinishReason, Generation, Piece, Status


class QueueFull(Exception):
    """All slots are taken and the waiting queue is at its limit; in about `seconds` all of it will be done."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Share(NamedTuple):
    """One generation's part of a scheduled call: `forced` steps that read its prompt, then `sampled` ones that it keeps."""

    generation: Generation
    forced: int
    sampled: int
    keeps_prompt: bool  # the state to keep is the one its prompt leaves


class Output(NamedTuple):
    """What a call has for a generation's reader; a reason when it was the last."""

    generation: Generation
    piece: Piece
    reason: FinishReason | None


class Scheduler:
    """Gives slots to generations, first come first served. `schedule` and `update`, with what the call gave, take turns."""

    def __init__(self, slots: int, queue_limit: int, prompts: PromptCache) -> None:
        self.queue_limit, self.prompts = queue_limit, prompts
        self.waiting: deque[Generation] = deque()
        self.running: dict[int, Generation] = {}
        self._free = list(range(slots))[::-1]
        self._shares: list[Share] = []

    def has_room(self, count: int) -> bool:
        """That many more would find a slot or a place in the queue."""
        return len(self.waiting) + count <= self.queue_limit + len(self._free)

    def add(self, *generations: Generation) -> None:
        """Queues them; whether there is room is for the caller to check."""
        self.waiting.extend(generations)

    def remove(self, generation: Generation) -> None:
        """Takes it out of the queue or its slot; what a call under way does for it is dropped."""
        if generation.status is Status.WAITING:
            self.waiting.remove(generation)
        for slot, running in list(self.running.items()):
            if running is generation:
                del self.running[slot]
                self._free.append(slot)
        if generation.prompt.reader is generation:
            generation.prompt.reader = None
        generation.status = Status.FINISHED

    @property
    def expected(self) -> int:
        """About how many the next call will have: those that share a prompt may have to wait."""
        return min(len(self.running) + len(self.waiting), len(self.running) + len(self._free))

    @property
    def work(self) -> int:
        """Characters still to be read or generated for all that run or wait."""
        return sum(g.unread_prompt + g.remaining for g in (*self.running.values(), *self.waiting))

    def schedule(self, longest: int) -> Batch | None:
        """The next call, of at most `longest` steps, or None when there is nothing to do.

        It ends where newcomers get their first character, so that they have it at once: at the last of those within reach,
        so that many newcomers do not make as many short calls. It is no longer than anybody needs.
        """
        starting = self._admit()
        if not self.running:
            return None
        running = [(generation, generation.unread_prompt) for generation in self.running.values()]
        firsts = [unread + 1 for generation, unread in running if not generation.drawn]
        reached = max((first for first in firsts if first <= longest), default=longest)
        # One step more than reading a shared prompt takes, though nothing is drawn, so that its state is kept for the others.
        steps = min(reached, max(unread + max(generation.remaining, generation.prompt.shared) for generation, unread in running))
        steps = max(1, steps)

        shape = (steps, len(running))
        forced, uniforms = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
        inputs, keep = np.empty(len(running), np.int32), np.full(len(running), -1, np.int32)
        starts: dict[int, State | None] = {}
        self._shares = []
        for b, (generation, unread) in enumerate(running):
            ids = generation.prompt.ids
            if generation in starting:
                starts[b] = starting[generation]
            inputs[b] = generation.last if generation.position else ids[0]
            reads = min(unread, steps)
            draws = min(steps - reads, generation.remaining)
            if reads:
                forced[:reads, b] = ids[len(ids) - unread : len(ids) - unread + reads]
            if draws:
                uniforms[reads : reads + draws, b] = generation.uniforms(draws)
            keeps_prompt = reads < steps and self._keeps(generation)
            if keeps_prompt or generation.returns_state:
                keep[b] = reads if keeps_prompt else 0
            self._shares.append(Share(generation, reads, draws, keeps_prompt))
        return Batch(
            slots=np.fromiter(self.running, np.int32),
            starts=starts,
            inputs=inputs,
            forced=forced,
            uniforms=uniforms,
            sampling=[generation.sampling for generation, _ in running],
            keep=keep,
            log_probabilities=any(generation.likeliest is not None for generation, _ in running),
            histories={b: generation.history for b, (generation, _) in enumerate(running) if generation.history},
        )

    def update(self, decoded: Decoded) -> list[Output]:
        """Applies `decoded` to the generations of the last call and returns their outputs.

        Ended or expired ones give up their slots.
        """
        now, outputs = time.perf_counter(), []
        for b, (share, chosen) in enumerate(zip(self._shares, decoded.chosen.T.tolist(), strict=True)):
            generation, prompt = share.generation, share.generation.prompt
            if share.keeps_prompt:
                prompt.state, prompt.reader = decoded.kept[b], None
                if prompt.start is None:
                    self.prompts.put(prompt.ids, decoded.kept[b])
            if generation.status is Status.FINISHED:  # removed during the call
                continue
            if generation.returns_state:
                state = None if share.keeps_prompt else decoded.kept[b]
                generation.advance(state, chosen[: share.forced + share.sampled])
            generation.position = max(generation.position, 1) + share.forced
            generation.last = chosen[-1]
            if prompt.scored and share.forced:
                read = _probabilities(decoded, slice(share.forced), b, generation.likeliest)
                prompt.log_probabilities += [read] if read else []
            piece, reason = Piece([]), None
            if share.sampled:
                generation.first = generation.first or now
                span = slice(share.forced, share.forced + share.sampled)
                piece, reason = generation.add(Piece(chosen[span], _probabilities(decoded, span, b, generation.likeliest)))
            elif not generation.remaining and not generation.unread_prompt:
                reason = "length"
            if share.sampled or reason:
                outputs.append(Output(generation, piece, reason))
            if reason:
                self._finish(generation, now)
        return outputs + self._expired(now)

    def _admit(self) -> Mapping[Generation, State | None]:
        """Gives away the free slots; returns who got one, and the state each starts from."""
        starting: dict[Generation, State | None] = {}
        if not self._free:
            return starting
        for generation in list(self.waiting):
            if not self._free:
                break
            prompt = generation.prompt
            if prompt.being_read:
                continue
            self.waiting.remove(generation)
            generation.status, generation.admitted = Status.RUNNING, time.perf_counter()
            self.running[self._free.pop()] = generation
            if prompt.state is None and prompt.start is None and not prompt.scored:
                prompt.state = self.prompts.get(prompt.ids)
            if prompt.state is None and len(prompt.ids) > 1:
                prompt.reader = generation
                prompt.log_probabilities.clear()  # one that has left may have begun to read it
            elif prompt.state is not None:
                generation.position, generation.last = len(prompt.ids), int(prompt.ids[-1])
            starting[generation] = prompt.start if prompt.state is None else prompt.state
            generation.begin(starting[generation])
        return starting

    def _keeps(self, generation: Generation) -> bool:
        """The state after its prompt will be needed, and is not there yet."""
        prompt = generation.prompt
        cached = self.prompts.limit > 0 and prompt.start is None
        return prompt.reader is generation and prompt.state is None and (prompt.shared or cached)

    def _expired(self, now: float) -> list[Output]:
        everybody = [*self.running.values(), *self.waiting]
        expired = [g for g in everybody if g.deadline is not None and g.deadline <= now and g.generated >= g.already_sent]
        for generation in expired:
            self._finish(generation, now)
        return [Output(generation, generation.release(), "time") for generation in expired]

    def _finish(self, generation: Generation, now: float) -> None:
        generation.finished = now
        self.remove(generation)


def _probabilities(decoded: Decoded, span: slice, b: int, likeliest: int | None) -> LogProbabilities | None:
    p = decoded.log_probabilities
    if p is None or likeliest is None:
        return None
    return LogProbabilities(p.chosen[span, b].copy(), p.likeliest[span, b, :likeliest].copy(), p.values[span, b, :likeliest].copy())
