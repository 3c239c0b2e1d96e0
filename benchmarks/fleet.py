"""Servers as a discrete-event simulation: arrivals, queue, slots. No network computes and no socket opens.

A replica runs the service's own EngineCore, so its queue, slots and iterations are the real ones. Only how long an iteration
takes comes from measurements (`benchmarks.capacity`).
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from service.generation.backend import Batch, Decoded
from service.generation.core import EngineCore
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from service.generation.scheduler import QueueFull

Process = Generator[simpy.Event, Any, None]

STATE = np.zeros((1, 1024), np.float32)  # what a prompt leaves behind; nobody looks into it


@dataclass(frozen=True)
class Machine:
    """How long things take on one, in seconds; lists are of a call's numbers of streams, `rows`."""

    rows: Sequence[int]  # rising
    decoding: Sequence[tuple[float, float]]  # the backend: a call, and each of its steps besides
    delivery: Sequence[float]  # what a call costs besides: scheduling it, and sending each stream its text
    request: float  # what a request costs the call in which it gets its slot
    reply: float  # from a call's end to a client's having its text; below 0 where most of what a call costs comes after that
    slower: float  # all calls, where requests come and go, by so much than what was measured by itself

    def call(self, steps: int, rows: int, newcomers: int) -> float:
        call, step = (np.interp(rows, self.rows, costs) for costs in zip(*self.decoding, strict=True))
        delivery = np.interp(rows, self.rows, self.delivery)
        return self.slower * float(call + steps * step + delivery + newcomers * self.request)


@dataclass(frozen=True)
class Limits:
    """The service's settings of the same names."""

    slots: int = 64
    queue_limit: int = 512
    chunk: int = 64
    call_seconds: float = 0.03
    prompt_cache: int = 16_000_000  # bytes


@dataclass(eq=False)
class Request:
    """One, and what became of it; times in seconds of the simulation."""

    sent: float
    prompt: NDArray[np.int32]  # [characters]
    characters: int
    first: float | None = None
    finished: float | None = None
    refused: bool = False

    @property
    def ttft(self) -> float:
        return float("nan") if self.first is None else self.first - self.sent


class SimulatedBackend:
    """Chooses zeros. An iteration adds to `seconds` what it would take on the machine."""

    name: str = "simulated"
    precision: str = "none"
    arithmetic: str = "none"

    def __init__(self, machine: Machine, slots: int) -> None:
        self.slots, self.seconds, self._machine = slots, 0.0, machine

    def decode(self, batch: Batch) -> Decoded:
        steps, rows = batch.forced.shape
        self.seconds += self._machine.call(steps, rows, len(batch.starts))
        snapshots = dict.fromkeys(np.flatnonzero(batch.snapshot_at >= 0).tolist(), STATE)
        return Decoded(np.zeros((steps, rows), np.int32), snapshots, None)


class Replica:
    """A server. `take` gives it a request."""

    def __init__(self, environment: simpy.Environment, machine: Machine, limits: Limits) -> None:
        self._environment, self._machine = environment, machine
        self._backend = SimulatedBackend(machine, limits.slots)
        self._core = EngineCore(
            self._backend,
            queue_limit=limits.queue_limit,
            max_steps=limits.chunk,
            iteration_seconds=limits.call_seconds,
            prompt_cache=limits.prompt_cache,
            clock=lambda: environment.now + self._backend.seconds,
        )
        self._requests: dict[Generation, tuple[Request, simpy.Event]] = {}
        self._came = environment.event()
        self.events = 0  # texts sent
        self.busy = 0.0  # seconds
        environment.process(self._run())

    @property
    def load(self) -> int:
        """Requests that have a slot or wait for one."""
        return len(self._requests)

    def take(self, request: Request) -> simpy.Event:
        """What happens when the request has ended; at once when it is refused."""
        over = self._environment.event()
        generation = Generation(Prompt(request.prompt), request.characters, Sampling(temperature=0), seed=0)
        try:
            self._core.submit(generation)
        except QueueFull:
            request.refused = True
            return over.succeed()
        self._requests[generation] = (request, over)
        if not self._came.triggered:
            self._came.succeed()
        return over

    def _run(self) -> Process:
        while True:
            if not self._core.has_work:
                self._came = self._environment.event()
                yield self._came
                continue
            outputs, _ = self._core.step()
            seconds, self._backend.seconds = self._backend.seconds, 0.0
            self.busy += seconds
            yield self._environment.timeout(seconds)
            for generation, chunk, reason in outputs:
                request, over = self._requests[generation]
                self.events += bool(chunk.characters)
                if chunk.characters and request.first is None:
                    request.first = self._environment.now + self._machine.reply
                if reason:
                    request.finished = self._environment.now + self._machine.reply
                    del self._requests[generation]
                    over.succeed()


def simulate(machine: Machine, requests: Iterable[Request], replicas: int = 1, limits: Limits | None = None) -> Sequence[Replica]:
    """Serves requests that come when they come, each by the less loaded of two replicas; the replicas, when all is over."""
    environment = simpy.Environment()
    fleet = [Replica(environment, machine, limits or Limits()) for _ in range(replicas)]
    rng = np.random.default_rng(0)

    def arrive() -> Process:
        for request in requests:
            yield environment.timeout(request.sent - environment.now)
            either = fleet[int(rng.integers(replicas))], fleet[int(rng.integers(replicas))]
            min(either, key=lambda replica: replica.load).take(request)

    environment.run(environment.process(arrive()))
    environment.run()  # until all have been served
    return fleet


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[Request]:
    """A Poisson process of `rate` requests a second: prompts of 10 to 100 characters, texts of 20 to 2,000, 200 at the median."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 1.2) + 50))
    times = times[times < seconds]
    prompts = [rng.integers(0, 65, length, np.int32) for length in rng.integers(10, 101, len(times))]
    characters = np.clip(rng.lognormal(np.log(200), 0.8, len(times)), 20, 2000).astype(int)
    return [Request(float(t), p, int(c)) for t, p, c in zip(times, prompts, characters, strict=True)]
