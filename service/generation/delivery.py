"""How often a stream gets its characters.

Iterations are short, so that a new request does not wait long for its first character. An event costs the same whatever its size,
so the output of several iterations is delivered together: on a busy server that leaves more of the processor to the network.
"""

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from service.generation.output_queue import Chunk, joined
from service.generation.request import Generation
from service.generation.scheduler import Output

EACH_STREAM = 0.0005  # seconds that each running stream adds to the interval between two deliveries to a stream
GOLDEN = 0.618  # spreads the first intervals of streams that begin together, so that one iteration does not deliver all


class Held(NamedTuple):
    """What a stream has not got yet, and when it gets more."""

    chunk: Chunk
    due: float


class Delivery:
    """Decides which outputs are delivered now and holds the others back."""

    def __init__(self, seconds: float) -> None:
        """seconds: between two deliveries to a stream that runs alone; 0: every output is delivered at once."""
        self._seconds = seconds
        self._held: dict[Generation, Held] = {}
        self._count = count()

    def due(self, outputs: Sequence[Output], now: float, running: int) -> list[Output]:
        """The outputs to deliver now: first characters and ends at once, others when their interval is over."""
        interval = self._seconds + EACH_STREAM * running if self._seconds else 0.0
        found = []
        for generation, chunk, reason in outputs:
            held = self._held.get(generation)
            if held is not None:
                chunk = joined(held.chunk, chunk)
                if reason is None and now < held.due:
                    self._held[generation] = Held(chunk, held.due)
                    continue
            phase = 1.0 if held is not None else (next(self._count) * GOLDEN) % 1
            if reason is None:
                self._held[generation] = Held(Chunk([]), now + phase * interval)
            else:
                self._held.pop(generation, None)
            found.append(Output(generation, chunk, reason))
        return found

    def remove(self, generation: Generation) -> Chunk:
        """Forgets a generation. Returns what was held back."""
        held = self._held.pop(generation, None)
        return Chunk([]) if held is None else held.chunk
