"""One generation: its parameters, and its progress, which the engine keeps. Its characters leave it through its `output`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.generation.backend import LogProbabilities, State
from service.generation.output_queue import Chunk, FinishReason, OutputQueue, cut, joined
from service.generation.sampling import History, Sampling
from service.generation.stop import StopStrings

PER_COUNT = 8  # uniform numbers of a step of Philox's counter: it gives four words of 64 bits


class Status(Enum):
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


class Times(NamedTuple):
    """Durations in seconds. None: that phase has not begun."""

    queue: float  # from arrival to the slot
    first: float | None  # from arrival to the first character
    prefill: float | None  # from the slot to the first character
    decode: float | None  # from the first character to the last


@dataclass(eq=False)
class Prompt:
    """A text to continue, as ids [characters], at least one.

    Generations may share a Prompt (`shared`). The first one that runs reads it (prefill); the others wait for `state`.
    """

    ids: NDArray[np.int32]
    shared: bool = False
    padding: int = 0  # ids at the end that are not of the text
    initial_state: State | None = None  # the network's state before the first character; None: zeros
    scored: bool = False  # compute log-probabilities of all characters but the first
    state: State | None = None  # after all characters but the last, once they have been read
    num_cached: int = 0  # characters whose state came from the prompt cache
    prefilled_by: "Generation | None" = None
    log_probabilities: list[LogProbabilities] = field(default_factory=list)  # where scored, of what has been read so far

    @property
    def num_characters(self) -> int:
        """The length of the text."""
        return len(self.ids) - self.padding


@dataclass(eq=False)
class Generation:
    """Continues a prompt by `num_generate` characters, maybe none, or until a stop string or the deadline.

    The fields up to `arrived_at` are parameters; the engine writes those after them. Times are `time.perf_counter` seconds.
    """

    prompt: Prompt
    num_generate: int
    sampling: Sampling
    seed: int  # 64 bits
    stop: Sequence[Sequence[int]] = ()  # ids of each stop string
    top_logprobs: int | None = None  # number of alternatives reported beside the chosen character; None: no log-probabilities
    deadline: float | None = None
    already_sent: int = 0  # characters that the client had from an earlier stream: generated again, whatever the deadline
    num_sampled_before: int = 0  # random numbers of the seed that an earlier generation used
    returns_state: bool = False  # `resume_point` will be read at the end
    choice: int = 0  # index among a request's continuations: each has its own random numbers
    history: History | None = None  # where the sampling needs one
    complete_at_limit: bool = False  # a text that reaches the limit where its automaton lets it end is complete
    min_tokens: int = 0  # stop strings that end within this many characters are ignored
    arrived_at: float = field(default_factory=time.perf_counter)  # when the request did, before its constraint was compiled

    output: OutputQueue = field(init=False, default_factory=OutputQueue)
    status: Status = field(init=False, default=Status.WAITING)
    num_prompt_read: int = field(init=False, default=0)  # prompt characters given to the network
    num_sampled: int = field(init=False, default=0)  # characters chosen, including stop strings and what is held back
    num_emitted: int = field(init=False, default=0)  # characters released for the output
    next_input: int = field(init=False, default=-1)  # the network's next input, once it has a slot
    scheduled_at: float | None = field(init=False, default=None)
    first_token_at: float | None = field(init=False, default=None)
    finished_at: float | None = field(init=False, default=None)
    last_delivery_at: float | None = field(init=False, default=None)  # of characters to the output
    stopped_by: Sequence[int] = field(init=False, default=())  # the stop string that ended it

    def __post_init__(self) -> None:
        # Counter-based: the i-th character always consumes the i-th number, so the text does not depend on how work is batched.
        numbers = np.random.Philox(key=np.array([self.seed, self.choice], np.uint64))
        self._uniforms = np.random.Generator(numbers)
        if self.num_sampled_before:
            numbers.advance(self.num_sampled_before // PER_COUNT)
            self._uniforms.random(self.num_sampled_before % PER_COUNT, np.float32)
        self._stop = StopStrings(self.stop, self.min_tokens)
        self._held = Chunk([])  # sampled, but it may be the beginning of a stop string
        self._snapshot = self.prompt.initial_state  # the network's state before `_inputs_since`
        self._inputs_since: list[int] = []

    @property
    def num_prompt_left(self) -> int:
        """Prompt characters still to be forced. The first character is an input and is never forced."""
        return len(self.prompt.ids) - max(self.num_prompt_read, 1)

    @property
    def remaining(self) -> int:
        """Characters still to be sampled."""
        return self.num_generate - self.num_sampled

    def times(self, until: float) -> Times:
        """How long each phase took. A phase that has not ended lasts until `until`."""
        scheduled, first = self.scheduled_at, self.first_token_at
        return Times(
            queue=(scheduled or until) - self.arrived_at,
            first=None if first is None else first - self.arrived_at,
            prefill=None if scheduled is None else (first or until) - scheduled,
            decode=None if first is None else (self.finished_at or until) - first,
        )

    def uniforms(self, count: int) -> NDArray[np.float32]:
        """The next `count` uniform numbers, in [0, 1). At temperature 0 zeros, which choose the first of the likeliest."""
        if self.sampling.temperature == 0:
            return np.zeros(count, np.float32)
        return self._uniforms.random(count, np.float32)

    def begin(self, state: State | None) -> None:
        """Call this when it gets a slot. state: the network's state before `next_input`; None: zeros."""
        if self.returns_state:
            self._snapshot = state
            self._inputs_since = [self.next_input]

    def advance(self, snapshot: State | None, chosen: Sequence[int]) -> None:
        """Records inputs for `resume_point`: the network chose these. snapshot: its state before the latest input, if it was kept.

        Call it before `add`. Held back characters may be dropped, so the snapshot must not lie behind them.
        """
        if snapshot is not None and not self._held.characters:
            self._snapshot, self._inputs_since = snapshot, self.known(self._inputs_since)[-1:]
        self._inputs_since += chosen

    @property
    def resume_point(self) -> tuple[State | None, list[int]]:
        """Where another generation can continue this text: (the network's state, the ids to read from there)."""
        ids = self._inputs_since[: len(self._inputs_since) - (self.num_sampled - self.num_emitted)]
        return self._snapshot, self.known(ids) + self.prompt.ids[self.num_prompt_read :].tolist()  # the deadline may cut the prompt

    def num_characters(self, chosen: Sequence[int]) -> int:
        """How many of the chosen ids come before the end of the text."""
        automaton = self.sampling.automaton
        if automaton is None:
            return len(chosen)
        return next((i for i, character in enumerate(chosen) if character in (automaton.end, -1)), len(chosen))

    def known(self, ids: list[int]) -> list[int]:
        """Without the characters that only an automaton knows: the network does not read them."""
        return ids if self.history is None else [i for i in ids if i < self.history.vocabulary]

    def add(self, sampled: Chunk) -> tuple[Chunk, FinishReason | None]:
        """Takes what the network sampled. Returns what can be emitted, and the reason if this was the end.

        Characters that may be the beginning of a stop string are held back until that is decided.
        """
        self.num_sampled += len(sampled.characters)
        reason = self._ended()
        if not self.stop:
            self.num_emitted += len(sampled.characters)
            return sampled, reason
        pending = joined(self._held, sampled)
        found = self._stop.find(sampled.characters)
        if found is not None:
            upto, length = found
            end, reason = len(self._held.characters) + upto - length, "stop"
            self.stopped_by = pending.characters[end : end + length]
        elif reason:
            end = len(pending.characters)
        else:
            end = len(pending.characters) - self._stop.begun
        self._held = Chunk([]) if reason else cut(pending, end, len(pending.characters))
        self.num_emitted += end
        return cut(pending, 0, end), reason

    def _ended(self) -> FinishReason | None:
        automaton = self.sampling.automaton
        if automaton is not None and self.history is not None:
            if automaton.must_end(self.history.state):
                return "stop"
            if self.complete_at_limit and not self.remaining and automaton.may_end(self.history.state):
                return "stop"
        return None if self.remaining else "length"

    def release(self) -> Chunk:
        """What was held back, when no more will come."""
        held, self._held = self._held, Chunk([])
        self.num_emitted += len(held.characters)
        return held
