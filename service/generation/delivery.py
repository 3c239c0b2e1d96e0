"""How often a stream gets its characters.

Iterations are short, so that a new request does not wait long for its first character. An event costs the same whatever its size,
so the output of several iterations is delivered together. That leaves more CPU time for the model.
"""

from collections.abc import Sequence
from itertools import count

from service.generation.output_queue import Chunk, joined
from service.generation.request import Generation
from service.generation.scheduler import Output

EACH_STREAM = 0.0005  # seconds that each running stream adds to the interval between two deliveries to a stream
GOLDEN = 0.618  # spreads the first intervals of streams that begin together, so that one iteration does not deliver all


class Delivery:
    """Decides which outputs are delivered now and holds the others back."""

    def __init__(self, seconds: float) -> None:
        """seconds: between two deliveries to a stream that runs alone; 0: every output is delivered at once."""
        self._seconds = seconds
        self._held: dict[Generation, tuple[Chunk, float]] = {}  # what a stream has not got yet, and when it gets more
        self._count = count()

    def due(self, outputs: Sequence[Output], now: float, rows: int) -> list[Output]:
        """The outputs to deliver now: first characters and ends at once, others when their interval is over. rows: that run."""
        interval = self._seconds + EACH_STREAM * rows if self._seconds else 0.0
        found = []
        for generation, chunk, reason in outputs:
            held, due_at = self._held.pop(generation, (Chunk([]), None))
            chunk = joined(held, chunk)
            if reason is None and ((due_at is not None and now < due_at) or not chunk.characters):
                if due_at is not None:
                    self._held[generation] = chunk, due_at
                continue
            if reason is None:
                phase = 1.0 if due_at is not None else (next(self._count) * GOLDEN) % 1
                self._held[generation] = Chunk([]), now + phase * interval
            found.append(Output(generation, chunk, reason))
        return found

    def remove(self, generation: Generation) -> Chunk:
        """Forgets a generation. Returns what was held back."""
        return self._held.pop(generation, (Chunk([]), None))[0]
