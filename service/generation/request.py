"""One generation: what was asked, how far it is, and what of it nobody has read yet."""

import asyncio
import time
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FinishReason = Literal["length", "cancelled", "error"]


class Status(Enum):
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(eq=False)
class Generation:
    """A prompt (ids [characters], at least one) to be continued by num_generate characters.

    The engine's thread moves it on (`status` to `finished`); its reader, on the event loop, only calls `read`. Times are
    `time.perf_counter` seconds.
    """

    prompt: NDArray[np.int32]
    num_generate: int
    temperature: float
    seed: int

    status: Status = Status.WAITING
    position: int = 0  # prompt characters given to the network so far
    generated: int = 0
    last: int = -1  # the network's next input, once it has had one
    created: float = field(default_factory=time.perf_counter)
    admitted: float | None = None
    first: float | None = None  # first character generated
    finished: float | None = None

    finish_reason: FinishReason | None = None
    error: Exception | None = None
    _unread: list[int] = field(default_factory=list)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        # Counter-based: the i-th generated character uses the i-th uniform, however the calls are cut.
        self.uniforms = np.random.Generator(np.random.Philox(key=self.seed))

    @property
    def unread_prompt(self) -> int:
        """Prompt characters still to be forced; the first of all is an input, not forced."""
        return len(self.prompt) - max(self.position, 1)

    @property
    def remaining(self) -> int:
        return self.num_generate - self.generated

    def deliver(self, characters: list[int], reason: FinishReason | None, error: Exception | None = None) -> None:
        """Hands the reader what was generated, and at the end why it ended. On the event loop only."""
        if self.finish_reason is not None:  # cancelled while a call was under way
            return
        self._unread += characters
        self.finish_reason, self.error = reason, error
        self._arrived.set()

    async def read(self) -> list[int]:
        """All ids generated since the last call, at least one; [] at the end.

        A slow reader gets more at a time; what waits for it is bounded by num_generate. Raises the error that ended it,
        after what came before it has been read.
        """
        await self._arrived.wait()
        characters, self._unread = self._unread, []
        if self.finish_reason is None:
            self._arrived.clear()
        elif not characters and self.error is not None:
            raise self.error
        return characters
