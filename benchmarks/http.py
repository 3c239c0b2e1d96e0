"""python -m benchmarks.http: what streaming clients get from a server, in the way of `vllm bench serve`.

Real server processes, one at a time, real sockets, and the client in this process. Folio runs with its default settings; its
engine's own rate, without HTTP, is measured between the same rounds.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from statistics import mean, median
from typing import Any

import numpy as np

from benchmarks.apart import Failed
from benchmarks.client import Address, Timeline, open_stream, read_all
from benchmarks.machine import describe
from benchmarks.measure import START
from benchmarks.server import Server, ServerFailed, running
from benchmarks.systems import SystemProcess
from benchmarks.table import table
from service.settings import Settings

IDLE_REQUESTS, IDLE_CHARACTERS = 50, 4  # one after the other to an idle server
BUSY_STREAMS, NEWCOMERS, NEWCOMER_CHARACTERS = 63, 100, 16  # those that go on all the time; those that come one after the other
LEAST_CHARACTERS = 8  # of a stream: fewer say nothing of gaps
TIMEOUT = 600  # seconds that the answers of one bout may take
ENGINE_SECONDS = 1.0  # of each measurement of the engine alone


@dataclass(frozen=True)
class Contender:
    """A server to be measured; `budget`: most characters of one bout's streams together, so that slow ones come to an end."""

    system: str
    module: str
    ready_path: str
    packages: tuple[str, ...]
    starts: int = 1
    budget: int | None = None
    own_fields: bool = False  # takes Folio's request, and streams that outlast a hundred others
    flags: tuple[str, ...] = ()

    def characters(self, wanted: int, streams: int) -> int:
        return wanted if self.budget is None else min(wanted, self.budget // streams)


CONTENDERS = (
    Contender("folio", "service", "/readyz", (), starts=3, own_fields=True),
    Contender("folio-ray", "benchmarks.peers.folio_ray", "/readyz", ("ray",), own_fields=True),
    Contender("folio-ray-2", "benchmarks.peers.folio_ray", "/readyz", ("ray",), own_fields=True, flags=("--replicas", "2")),
    Contender("tutorial-fastapi", "benchmarks.peers.tutorial_fastapi", "/readyz", ("tensorflow",), budget=512),
    Contender("torch-litserve", "benchmarks.peers.torch_litserve", "/health", ("torch", "litserve"), budget=4096),
)


@dataclass(frozen=True)
class Bout:
    """All streams of one round, opened at once."""

    timelines: list[Timeline]
    cpu_seconds: float | None
    peak_memory: float | None  # MB

    @property
    def seconds(self) -> float:
        """From the first request sent to the last text."""
        ends = [timeline.arrivals[-1][0] for timeline in self.timelines if timeline.arrivals]
        return max(ends, default=float("nan")) - min(timeline.sent for timeline in self.timelines)

    @property
    def characters(self) -> int:
        return sum(count for timeline in self.timelines for _, count in timeline.arrivals)

    @property
    def events(self) -> int:
        """Those with text."""
        return sum(timeline.events for timeline in self.timelines)

    @property
    def cpu_microseconds_per_event(self) -> float | None:
        return self.cpu_seconds * 1e6 / self.events if self.cpu_seconds is not None and self.events else None


@dataclass
class Measured:
    """Of one server and one number of streams: the bouts, and the engine's characters/s next to each."""

    streams: int
    characters: int  # asked for, of each stream
    bouts: list[Bout] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Rates and processor time of a typical bout; latencies over all of them."""
        timelines = [timeline for bout in self.bouts for timeline in bout.timelines]
        gaps = np.array([gap for timeline in timelines for gap in timeline.gaps]).reshape(-1, 2)
        events, counts = gaps[:, 0] * 1000, gaps[:, 1].astype(int)
        rate = median(bout.characters / bout.seconds for bout in self.bouts)
        engine = median(self.engine) if self.engine else None
        return {
            "streams": self.streams,
            "characters": self.characters,
            "errors": sum(not timeline.whole for timeline in timelines),
            "characters_per_second": _rounded(rate),
            "requests_per_second": _rounded(median(sum(t.whole for t in bout.timelines) / bout.seconds for bout in self.bouts)),
            **percentiles("ttft", first_texts(timelines)),
            **percentiles("itl", np.repeat(events / counts, counts)),
            **percentiles("gap", events),
            "events": _mean([bout.events for bout in self.bouts]),
            "server_cpu_seconds": _mean([bout.cpu_seconds for bout in self.bouts]),
            "server_cpu_microseconds_per_event": _mean([bout.cpu_microseconds_per_event for bout in self.bouts]),
            "server_peak_memory_mb": _rounded(max((bout.peak_memory for bout in self.bouts if bout.peak_memory), default=None)),
            "engine_characters_per_second": _rounded(engine),
            "share_of_engine": _rounded(rate / engine) if engine else None,
        }


def main() -> int:
    """Measures and prints; 1 when a server or a stream fails."""
    options = _options()
    machine = describe()
    rows: list[dict[str, Any]] = []
    try:
        for contender in CONTENDERS:
            missing = [package for package in contender.packages if find_spec(package) is None]
            if missing:
                print(f"{contender.system} is left out: {', '.join(missing)} not installed", file=sys.stderr)
            elif contender.system in options.systems:
                rows += measure(contender, options.streams, options.characters, options.rounds)
    except (Failed, ServerFailed) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps([row | {"machine": machine} for row in rows], indent=1))
    else:
        print("\n".join(f"{name}: {value}" for name, value in machine.items()), end="\n\n")
        print(_report(rows))
    return 1 if any(row["errors"] for row in rows) else 0


def measure(contender: Contender, streams: Sequence[int], characters: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each number of streams; what is said of the server as a whole is in all of them."""
    flags = [*contender.flags, *(["--queue-limit", max(streams)] if contender.own_fields else [])]
    starts = []
    for _ in range(contender.starts - 1):
        with running(contender.module, flags, contender.ready_path) as server:
            starts.append(server.start_seconds)
    with running(contender.module, flags, contender.ready_path) as server:
        starts.append(server.start_seconds)
        whole: dict[str, Any] = {"start_to_ready_seconds": _rounded(median(starts)), "ready_memory_mb": _rounded(server.memory())}
        address = Address(server.port, "/generate")
        whole |= percentiles("ttft_idle", asyncio.run(idle(address)))
        measured = bouts(contender, server, address, streams, characters, rounds)
        if contender.own_fields:
            whole |= percentiles("ttft_busy", asyncio.run(busy(address)))
    return [{"system": contender.system, **one.row(), **whole} for one in measured]


def bouts(
    contender: Contender, server: Server, address: Address, streams: Sequence[int], characters: int, rounds: int
) -> list[Measured]:
    """Rounds over all numbers of streams; next to each of Folio's the engine alone, with as many streams as have slots."""
    measured = [Measured(count, contender.characters(characters, count)) for count in streams]
    for one in measured:
        if one.characters < LEAST_CHARACTERS:
            print(f"{contender.system} is left out with {one.streams} streams: would take too long", file=sys.stderr)
    measured = [one for one in measured if one.characters >= LEAST_CHARACTERS]
    if not contender.own_fields:
        for _ in range(rounds):
            for one in measured:
                one.bouts.append(bout(server, address, one.streams, one.characters))
        return measured
    settings = Settings()
    with closing(SystemProcess("folio", chunk=settings.chunk, call_seconds=settings.call_ms / 1000)) as engine:
        for _ in range(rounds):
            for one in measured:
                one.engine.append(engine.rate(min(one.streams, settings.slots), ENGINE_SECONDS))
                one.bouts.append(bout(server, address, one.streams, one.characters))
    return measured


def bout(server: Server, address: Address, streams: int, characters: int) -> Bout:
    """So many requests at once, each with a seed of its own."""
    server.forget_peak()
    before = server.cpu_seconds()
    timelines = asyncio.run(read_all(address, [request(characters, seed) for seed in range(streams)], TIMEOUT))
    after = server.cpu_seconds()
    return Bout(timelines, None if before is None or after is None else after - before, server.peak_memory())


async def idle(address: Address) -> list[float]:
    """Seconds to the first text of requests that have the server to themselves, one after the other."""
    timelines = []
    for seed in range(IDLE_REQUESTS):
        timelines += await read_all(address, [request(IDLE_CHARACTERS, seed)], TIMEOUT)
    return first_texts(timelines)


async def busy(address: Address) -> list[float]:
    """Seconds to the first text of newcomers, one after the other, while others stream all the time."""
    endless = Settings().max_num_generate
    others = await asyncio.gather(*(open_stream(address, request(endless, seed)) for seed in range(BUSY_STREAMS)))
    await asyncio.wait([other.started for other in others], timeout=TIMEOUT)
    timelines = []
    for seed in range(NEWCOMERS):
        timelines += await read_all(address, [request(NEWCOMER_CHARACTERS, BUSY_STREAMS + seed)], TIMEOUT)
    if any(other.ended.done() for other in others):
        raise ServerFailed("streams that should have gone on while others came have ended")
    for other in others:
        other.leave()
    return first_texts(timelines)


def request(characters: int, seed: int) -> dict[str, Any]:
    """A body that all contenders take; what they don't know they ignore."""
    return {"start_string": START, "temperature": 1.0, "num_generate": characters, "seed": seed, "stream": True}


def first_texts(timelines: Sequence[Timeline]) -> list[float]:
    """Milliseconds to the first text, of those answers that had any."""
    return [timeline.first_text * 1000 for timeline in timelines if timeline.arrivals]


def percentiles(name: str, values: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float | None]:
    """The median and the 99th percentile of milliseconds, as `name_ms_p50` and `name_ms_p99`."""
    return {f"{name}_ms_p{q}": _rounded(float(np.percentile(values, q))) if len(values) else None for q in (50, 99)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(mean(known)) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


STREAMING = {
    "system": "system",
    "streams": "streams",
    "characters": "each",
    "errors": "errors",
    "characters_per_second": "char/s",
    "requests_per_second": "req/s",
    "ttft_ms_p50": "TTFT p50",
    "ttft_ms_p99": "p99",
    "itl_ms_p50": "ITL p50",
    "itl_ms_p99": "p99",
    "gap_ms_p50": "gap p50",
    "gap_ms_p99": "p99",
    "events": "events",
    "server_cpu_seconds": "CPU s",
    "server_cpu_microseconds_per_event": "us/event",
    "server_peak_memory_mb": "peak MB",
    "engine_characters_per_second": "engine",
    "share_of_engine": "share",
}

WHOLE = {
    "system": "system",
    "start_to_ready_seconds": "start to ready s",
    "ready_memory_mb": "MB then",
    "ttft_idle_ms_p50": "TTFT idle p50",
    "ttft_idle_ms_p99": "p99",
    "ttft_busy_ms_p50": "TTFT busy p50",
    "ttft_busy_ms_p99": "p99",
}


def _report(rows: Sequence[dict[str, Any]]) -> str:
    servers = {row["system"]: row for row in rows}.values()
    return "\n".join(
        [
            "latencies in ms; each: characters asked for; engine: its characters/s without HTTP; share: char/s of it",
            "",
            table(list(STREAMING.values()), [[row[key] for key in STREAMING] for row in rows]),
            "",
            table(list(WHOLE.values()), [[row.get(key) for key in WHOLE] for row in servers]),
        ]
    )


def _options() -> argparse.Namespace:
    systems = [contender.system for contender in CONTENDERS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__.partition(": ")[2])
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64, 512], metavar="N", help="how many at the same time")
    parser.add_argument("--characters", type=int, default=500, help="of each stream; peers get fewer where they would take long")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is measured")
    parser.add_argument("--systems", nargs="+", choices=systems, default=systems, metavar="NAME", help=", ".join(systems))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
