"""One generation: what was asked, how far it is, and what of it nobody has read yet."""

import asyncio
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.generation.decoder import LogProbabilities, State
from service.generation.sampling import History, Sampling
from service.generation.stop import StopStrings

FinishReason = Literal["length", "stop", "time", "cancelled", "error"]

DRAWN_AHEAD = 128  # uniforms
PER_COUNT = 8  # uniforms that a step of Philox's counter gives: four words of 64 bits


class Status(Enum):
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


class Piece(NamedTuple):
    """A part of what was generated, with the log-probabilities [characters] if they were asked for."""

    characters: Sequence[int]
    log_probabilities: LogProbabilities | None = None


@dataclass(eq=False)
class Prompt:
    """Ids [characters], at least one, and once somebody has read them the state that all but the last of them leave.

    Continuations that share a Prompt (`shared`) read it once: the first that runs reads, the others wait for the state.
    """

    ids: NDArray[np.int32]
    shared: bool = False
    start: State | None = None  # what the network remembers before the first of them; None: nothing
    scored: bool = False  # log-probabilities are needed of all but the first, and of as many others as its reader's `likeliest`
    state: State | None = None
    reader: "Generation | None" = None
    log_probabilities: list[LogProbabilities] = field(default_factory=list)  # where scored, as read so far

    @property
    def being_read(self) -> bool:
        return self.shared and self.reader is not None


@dataclass(eq=False)
class Generation:
    """A prompt to be continued by num_generate characters, maybe none, or up to a stop string, or a deadline.

    The engine's thread moves it on (`status` to `finished`); its reader, on the event loop, only calls `read`. Times are
    `time.perf_counter` seconds.
    """

    prompt: Prompt
    num_generate: int
    sampling: Sampling
    seed: int  # of 64 bits
    stop: Sequence[Sequence[int]] = ()  # ids of each stop string
    likeliest: int | None = None  # how many characters get log-probabilities at each place, besides the chosen one; None: none does
    deadline: float | None = None
    already_sent: int = 0  # characters that its reader had from an earlier stream: they are generated again whatever the deadline
    drawn_before: int = 0  # uniforms of the seed that were used before this began
    returns_state: bool = False  # its `memory` is needed when it has ended
    choice: int = 0  # which of a request's continuations this is: no two share random numbers
    history: History | None = None  # where the sampling needs one
    min_tokens: int = 0  # a stop string that ends within so many characters does not count

    status: Status = Status.WAITING
    position: int = 0  # prompt characters given to the network so far
    drawn: int = 0  # characters that the network has chosen, including those of stop strings and those held back
    generated: int = 0  # characters passed on to the reader
    last: int = -1  # the network's next input, once it has had one
    created: float = field(default_factory=time.perf_counter)
    admitted: float | None = None
    first: float | None = None  # first character drawn
    finished: float | None = None
    undelivered: Piece = field(default_factory=lambda: Piece([]))  # for its reader, but not due yet; the engine's
    due: float | None = None  # when its reader is to get more; None: it has had nothing
    delivered: float | None = None  # the last characters, to its reader, where somebody observes

    finish_reason: FinishReason | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        # Counter-based: the i-th generated character uses the i-th uniform, however the calls are cut.
        numbers = np.random.Philox(key=np.array([self.seed, self.choice], np.uint64))
        self._uniforms = np.random.Generator(numbers)
        if self.drawn_before:
            numbers.advance(self.drawn_before // PER_COUNT)
            self._uniforms.random(self.drawn_before % PER_COUNT, np.float32)
        self._drawn_ahead = np.empty(0, np.float32)
        self._stop = StopStrings(self.stop, self.min_tokens)
        self._held = Piece([])  # drawn, but perhaps the beginning of a stop string
        self._anchor = self.prompt.start  # what the network remembered of all before `_since`
        self._since: list[int] = []  # inputs of the network
        self._unread = array("i")
        self._unread_probabilities: list[LogProbabilities] = []
        self._arrived = asyncio.Event()

    @property
    def unread_prompt(self) -> int:
        """Prompt characters still to be forced; the first of all is an input, not forced."""
        return len(self.prompt.ids) - max(self.position, 1)

    @property
    def remaining(self) -> int:
        return self.num_generate - self.drawn

    def uniforms(self, count: int) -> NDArray[np.float32]:
        """The next characters' uniforms, in [0, 1); at temperature 0 zeros, which take the first of the likeliest."""
        if self.sampling.temperature == 0:
            return np.zeros(count, np.float32)
        if len(self._drawn_ahead) < count:  # many at a time: a call of the generator costs more than its numbers do
            more = self._uniforms.random(max(count, DRAWN_AHEAD), np.float32)
            self._drawn_ahead = np.concatenate([self._drawn_ahead, more])
        uniforms, self._drawn_ahead = self._drawn_ahead[:count], self._drawn_ahead[count:]
        return uniforms

    def begin(self, state: State | None) -> None:
        """It has a slot now, and goes on from that state (None: nothing read yet) with its next input."""
        if self.returns_state:
            self._anchor, self._since = state, [self.last if self.position else int(self.prompt.ids[0])]

    def advance(self, state: State | None, chosen: Sequence[int]) -> None:
        """The network has chosen these after its next input, before which its state was `state`, if that was kept.

        Call it before `add`. Characters that are held back may yet be dropped, so the anchor must not lie behind them.
        """
        if state is not None and not self._held.characters:
            self._anchor, self._since = state, self._since[-1:]
        self._since += chosen

    @property
    def memory(self) -> tuple[State | None, list[int]]:
        """Where another can go on after this one's text: (the network's state; the ids to read from there on)."""
        ids = self._since[: len(self._since) - (self.drawn - self.generated)]
        return self._anchor, ids + self.prompt.ids[self.position :].tolist()  # time may have ended it while it was reading

    def add(self, drawn: Piece) -> tuple[Piece, FinishReason | None]:
        """Takes what the network drew; returns what of it can be passed on, and the reason if that was the end.

        What may be the beginning of a stop string is held back until it is clear that it is not.
        """
        self.drawn += len(drawn.characters)
        if not self.stop:
            self.generated += len(drawn.characters)
            return drawn, None if self.remaining else "length"
        pending = joined(self._held, drawn)
        found = self._stop.find(drawn.characters)
        reason: FinishReason | None = None
        if found is not None:
            upto, length = found
            end, reason = len(self._held.characters) + upto - length, "stop"
        elif not self.remaining:
            end, reason = len(pending.characters), "length"
        else:
            end = len(pending.characters) - self._stop.begun
        self._held = Piece([]) if reason else cut(pending, end, len(pending.characters))
        self.generated += end
        return cut(pending, 0, end), reason

    def release(self) -> Piece:
        """What was held back, when no more will come."""
        held, self._held = self._held, Piece([])
        self.generated += len(held.characters)
        return held

    def deliver(self, piece: Piece, reason: FinishReason | None, error: Exception | None = None) -> None:
        """Hands its reader what was generated, and at the end why it ended. On the event loop only."""
        if self.finish_reason is not None:  # cancelled while a call was under way
            return
        self._unread.extend(piece.characters)
        if piece.log_probabilities is not None:
            self._unread_probabilities.append(piece.log_probabilities)
        self.finish_reason, self.error = reason, error
        if self._unread or reason:
            self._arrived.set()

    def wake(self) -> None:
        """Makes a waiting `read` return, though there is nothing to read."""
        self._arrived.set()

    async def read(self) -> Piece:
        """All that was generated since the last call, at least one character; none at the end, or when woken.

        A slow reader gets more at a time; what waits for it is bounded by num_generate. Raises the error that ended the
        generation, once all that came before it has been read.
        """
        await self._arrived.wait()
        characters, self._unread = self._unread, array("i")
        probabilities, self._unread_probabilities = self._unread_probabilities, []
        if self.finish_reason is None:
            self._arrived.clear()
        elif not characters and self.error is not None:
            raise self.error
        return Piece(characters, concatenated(probabilities) if probabilities else None)


def joined(a: Piece, b: Piece) -> Piece:
    """The characters of both, and the log-probabilities if both have them."""
    if not a.characters:
        return b
    if not b.characters:
        return a
    if a.log_probabilities is None or b.log_probabilities is None:
        return Piece([*a.characters, *b.characters])
    return Piece([*a.characters, *b.characters], concatenated([a.log_probabilities, b.log_probabilities]))


def cut(piece: Piece, start: int, end: int) -> Piece:
    """Its characters from start to end (not included)."""
    if end - start == len(piece.characters):
        return piece
    p = piece.log_probabilities
    cut_probabilities = p and LogProbabilities(p.chosen[start:end], p.likeliest[start:end], p.values[start:end])
    return Piece(piece.characters[start:end], cut_probabilities)


def concatenated(parts: Sequence[LogProbabilities]) -> LogProbabilities:
    """Those of consecutive characters, [n, ...] each, as one: [sum of n, ...]. They all have the same N."""
    return LogProbabilities(
        np.concatenate([part.chosen for part in parts]),
        np.concatenate([part.likeliest for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
