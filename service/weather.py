"""The delays and faults of each request, drawn from a plan. Knows no HTTP.

The draws of a request depend on the plan's seed and on the number of requests before it, so the same sequence of requests has the
same faults. With a `seed` in its own header they depend on that alone. Each kind of draw has a random generator of its own, so a
change of the error rates changes no latency.
"""

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from math import ceil, inf, log, log1p, sqrt
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.fault_plan import MAX_MS, Break, Conditions, ErrorRate, Latency, Plan, RateLimits, from_header
from service.generation.output_queue import Chunk, cut

ERRORS, BREAKS, TTFT, ITL = range(4)  # kinds of draws; ITL + i: of completion i
BLOCK = 32  # latencies drawn at once
NO_CONDITIONS = Conditions()


class PlannedFault(Exception):
    """The plan answers this request with an error."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class Delays:
    """Earliest times of a text's characters, in seconds after the first came from the engine."""

    def __init__(self, first: float, gaps: Callable[[], NDArray[np.float64]] | None) -> None:
        """gaps: draws the next times between two characters. None: all are due with the first."""
        self._times, self._gaps = [first], gaps

    def due(self, i: int) -> float:
        """The time of character i."""
        while self._gaps and len(self._times) <= i:
            self._extend(self._gaps)
        return self._times[min(i, len(self._times) - 1)]

    def num_due(self, seconds: float, most: int) -> int:
        """How many of the first `most` characters are due by then."""
        if not self._gaps:
            return most if self._times[0] <= seconds else 0
        while len(self._times) < most and self._times[-1] <= seconds:
            self._extend(self._gaps)
        return min(most, bisect_right(self._times, seconds))

    def _extend(self, gaps: Callable[[], NDArray[np.float64]]) -> None:
        self._times += (self._times[-1] + np.cumsum(gaps())).tolist()


class Weather:
    """The plan of a server, and what its draws depend on: the number of requests so far and of open ones."""

    def __init__(self, plan: Plan, *, accepts_header: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan = plan
        self.accepts_header = accepts_header
        self.count: Callable[[str], None] = lambda _: None  # counts a fault of this kind
        self.num_open = 0
        self.num_requests = 0
        self.clock = clock
        self._ready_at = clock() + self.plan.startup_seconds
        self._used: dict[str, tuple[float, Counter[str]]] = {}  # model -> time of the last reset, used of its rate limits since

    @property
    def startup_left(self) -> float:
        """Seconds until the slow start-up ends."""
        return max(0.0, self._ready_at - self.clock())

    @property
    def kinds(self) -> list[str]:
        """The kinds of faults and delays that may be counted; a request's header can add further statuses."""
        everywhere = (self.plan, *self.plan.models.values())
        statuses = {str(error.status) for conditions in everywhere for error in conditions.errors}
        return sorted(statuses | {"cut", "stall", "malformed", "truncated", "latency", "rate_limit", "startup"})

    def conditions(self, model: str) -> Conditions:
        return self.plan.updated(self.plan.models.get(model, NO_CONDITIONS))

    def used(self, model: str, limits: RateLimits) -> tuple[Counter[str], float]:
        """(What requests for a model have used of its rate limits, seconds until the next reset)."""
        now = self.clock()
        since, used = self._used.get(model, (-inf, Counter[str]()))
        if now - since >= limits.reset_seconds:
            since, used = self._used[model] = now, Counter()
        return used, since + limits.reset_seconds - now


class RequestFaults:
    """The delays and faults of one request. `begin` draws them."""

    def __init__(self, weather: Weather, header: str | None) -> None:
        self.kinds: list[str] = []  # of the faults and delays so far
        self.headers: dict[str, str] = {}  # of the response
        self.fault: Break | None = None  # to come
        self.fault_at: int | None = None  # once it is due: its position in the next part of the response's body
        self._weather, self._header = weather, header if weather.accepts_header else None
        self._begun = False

    def begin(self, model: str, num_tokens: int) -> None:
        """Called for a valid request, before it is submitted. Raises PlannedFault or InvalidPlan."""
        weather = self._weather
        if seconds := weather.startup_left:
            raise self._refused("startup", 503, f"the fault plan delays the start by another {seconds:.1f} s", seconds)
        own = from_header(self._header) if self._header else None
        self._conditions = weather.conditions(model).updated(own or NO_CONDITIONS)
        if limits := self._conditions.rate_limits:
            self._count_down(limits, *weather.used(model, limits), {"requests": 1, "tokens": num_tokens})
        self._key = (own.seed, 0) if own and own.seed is not None else (weather.plan.seed, weather.num_requests)
        weather.num_requests += 1
        if error := _chosen(self._generator(ERRORS), self._conditions.errors):
            raise self._refused(str(error.status), error.status, f"a planned fault: status {error.status}", error.retry_after)
        self.fault = _chosen(self._generator(BREAKS), self._conditions.breaks)
        if self._conditions.ttft_ms or self._conditions.itl_ms:
            self.note("latency")
        self._begun = True
        weather.num_open += 1

    def delays(self, i: int) -> Delays | None:
        """The delays of completion i."""
        ttft, itl = self._conditions.ttft_ms, self._conditions.itl_ms
        if ttft is None and itl is None:
            return None
        first = float(self._seconds(ttft, self._generator(TTFT), 1)[0]) if ttft else 0.0
        generator = self._generator(ITL + i)
        return Delays(first, (lambda: self._seconds(itl, generator, BLOCK)) if itl else None)

    def note(self, kind: str) -> None:
        """Counts a fault or a delay that takes effect."""
        self.kinds.append(kind)
        self._weather.count(kind)

    def close(self) -> None:
        """Called when the response has ended."""
        if self._begun:
            self._weather.num_open -= 1
            self._begun = False

    async def split(
        self, chunks: AsyncGenerator[tuple[int, Chunk, bool], None], num_completions: int
    ) -> AsyncGenerator[tuple[int, Chunk, bool], None]:
        """A stream's chunks. When character `at` of the fault has been sent, or the last one, the fault is due."""
        num_sent = 0
        async with aclosing(chunks):
            async for i, chunk, ended in chunks:
                size, before = len(chunk.characters), 0
                num_completions -= ended
                if self.fault and (num_sent + size >= self.fault.at or not num_completions):
                    before = max(0, min(size, self.fault.at - num_sent))
                    if before:
                        yield i, cut(chunk, 0, before), False
                    self.fault_at = 0
                num_sent += size
                if before < size or ended or not before:
                    yield i, cut(chunk, before, size), ended

    def _generator(self, kind: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=np.array(self._key, np.uint64), counter=[0, 0, 0, kind]))

    def _seconds(self, latency: Latency, generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        others = self._weather.num_open - self._begun
        return (draw(latency, generator, count) + latency.per_running * others) / 1000

    def _refused(self, kind: str, status: int, message: str, retry_after: float | None) -> PlannedFault:
        self.note(kind)
        return PlannedFault(status, message, None if retry_after is None else ceil(retry_after))

    def _count_down(self, limits: RateLimits, used: Counter[str], seconds: float, cost: dict[str, int]) -> None:
        """Writes the headers. Raises PlannedFault if too little is left for this request. seconds: until the next reset."""
        most = {name: limit for name in cost if (limit := getattr(limits, name)) is not None}
        exceeded = limits.counts and any(used[name] + cost[name] > limit for name, limit in most.items())
        if limits.counts and not exceeded:
            used.update(cost)
        for name, limit in most.items():
            found = {"limit": str(limit), "remaining": str(limit - used[name]), "reset": duration(seconds)}
            self.headers |= {f"x-ratelimit-{part}-{name}": value for part, value in found.items()}
        if exceeded:
            raise self._refused("rate_limit", 429, "the rate limit of the fault plan is exceeded", seconds)


def draw(latency: Latency, generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Times of the distribution, in milliseconds, from 0 to MAX_MS."""
    mean, stddev = latency.mean, latency.stddev
    if latency.distribution == "constant":
        return np.full(count, mean)
    if latency.distribution == "normal":
        times = generator.normal(mean, stddev, count)
    else:
        variance = log1p((stddev / mean) ** 2)  # of the logarithm
        times = generator.lognormal(log(mean) - variance / 2, sqrt(variance), count)
    return np.clip(times, 0, MAX_MS)


def duration(seconds: float) -> str:
    """As OpenAI writes it: 12ms, 8.64s, 6m0s, 1h0m0s."""
    if 0 < seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    before = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{before}{rest:.3f}".rstrip("0").rstrip(".") + "s"


T = TypeVar("T", ErrorRate, Break)


def _chosen(generator: np.random.Generator, options: Sequence[T]) -> T | None:
    """One of them by its rate, or none."""
    number = generator.random() if options else 1.0
    for option in options:
        if number < option.rate:
            return option
        number -= option.rate
    return None
