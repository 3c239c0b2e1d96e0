"""How often a stream gets its characters.

Calls are short, so that a new request does not wait long for its first character. An event costs the same whatever it holds, so
what several calls give to a stream is delivered together: on a busy server that leaves more of the processor to the network.
"""

from collections.abc import Sequence
from itertools import count

from service.generation.request import Piece, joined
from service.generation.scheduler import Output

EACH_STREAM = 0.0005  # seconds that each running stream adds to the interval between two deliveries to a stream
GOLDEN = 0.618  # spreads the first intervals of streams that begin together, so that not all are delivered by the same call


class Delivery:
    """Decides which outputs are delivered now; the others are kept with their generations. Knows no thread."""

    def __init__(self, seconds: float) -> None:
        """seconds: between two deliveries to a stream, about, where it runs alone; 0: all outputs are delivered at once."""
        self._seconds = seconds
        self._count = count()

    def due(self, outputs: Sequence[Output], now: float, running: int) -> list[Output]:
        """First characters and ends at once, others when their interval is over, with all that was kept."""
        interval = self._seconds + EACH_STREAM * running if self._seconds else 0.0
        found = []
        for generation, piece, reason in outputs:
            piece = joined(generation.undelivered, piece)
            if reason is None and generation.due is not None and now < generation.due:
                generation.undelivered = piece
                continue
            phase = 1.0 if generation.due is not None else (next(self._count) * GOLDEN) % 1
            generation.due = now + phase * interval
            generation.undelivered = Piece([])
            found.append(Output(generation, piece, reason))
        return found
