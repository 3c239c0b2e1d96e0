"""python -m benchmarks.capacity: what a stream costs, how that grows, and from that what a fleet of servers would do.

`cost` and `size` measure one server and networks of other sizes. `check` sends a Poisson process of requests to a real server
and the same requests to the simulation (`benchmarks.fleet`), calibrated by what was measured otherwise. `fleet` simulates many.

A server has one core of this machine and the client another, so that neither takes from the other. On Linux only.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.client import Address, Stream, Timeline, open_stream, read_all
from benchmarks.fleet import Limits, Machine, Request, arrivals, simulate
from benchmarks.http import TIMEOUT, first_texts, request
from benchmarks.machine import describe
from benchmarks.measure import START
from benchmarks.server import Server, running
from benchmarks.systems import shipped
from benchmarks.table import table
from service.generation.backend import Backend, Batch
from service.generation.backends import open_backend
from service.generation.sampling import Sampling
from trainer.artifact import WEIGHTS, Architecture, Version
from trainer.vocabulary import Vocabulary

Row = dict[str, Any]

SERVER_CORE, CLIENT_CORE = 0, 1

STREAMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SECONDS = 8.0  # about how long each is measured
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # numbers of streams that a machine's costs are measured at
LOADS = (0.5, 0.8, 0.95)  # of what one server can do
FLEETS = (1, 10, 100, 1000)
FLEET_LOAD = 0.8
USERS, PAUSE = 1_000_000, 60.0  # each sends the next request after so many seconds
SHORT_ONES = 500  # requests for one character that tell what a request costs
CALIBRATION = 0.85  # load of the requests that tell how much more all costs where they come and go
WATCH = 2.0  # seconds in which every server has looked for a new version


def main() -> int:
    options = _options()
    machine = describe()
    if not hasattr(os, "sched_setaffinity") or not {SERVER_CORE, CLIENT_CORE} <= os.sched_getaffinity(0):
        print(f"needs Linux, and its cores {SERVER_CORE} and {CLIENT_CORE}: one for a server, one for its client", file=sys.stderr)
        return 2
    os.sched_setaffinity(0, {CLIENT_CORE})
    found: dict[str, list[Row]] = {}
    if not options.json:
        print("\n".join(f"{name}: {value}" for name, value in machine.items()), end="\n\n")
    for part in options.parts or PARTS:
        found[part] = PARTS[part](options)
        if not options.json:
            print(f"{part}\n\n{table(list(found[part][0]), [list(row.values()) for row in found[part]])}\n", flush=True)
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        plot(found, options.plots)
    if options.json:
        print(json.dumps(found | {"machine": machine}, indent=1))
    return 0


def cost(_: argparse.Namespace) -> list[Row]:
    """One server with more and more streams."""
    rows: list[Row] = []
    with served("--queue-limit", STREAMS[-1]) as server:
        measure(server, Limits.slots, 100)  # so that what is allocated once is
        rate, least = 2000.0, 0.0
        for streams in STREAMS:
            steady = measure(server, streams, max(100, round(rate * SECONDS / streams)))
            rate, peak = steady.rate, server.peak_memory() or 0.0
            least = least or peak
            rows.append(
                {
                    "streams": streams,
                    "characters/s": steady.rate,
                    "of each": steady.rate / streams if streams <= Limits.slots else None,  # of more some wait
                    "CPU ms a 1,000 characters": steady.cpu_seconds / steady.characters * 1e6,
                    "peak MB": peak,
                    "kB a further stream": 1000 * (peak - least) / (streams - 1) if streams > 1 else None,
                    **{f"TTFT p{q} ms": float(np.percentile(steady.ttft, q)) for q in (50, 99)},
                }
            )
    return rows


def size(_: argparse.Namespace) -> list[Row]:
    """Networks with random weights, their backends alone: microseconds a step."""
    rows: list[Row] = []
    base: Row = {"cell": "gru", "layers": 1, "units": 1024, "embedding": 256, "vocabulary": 65}
    changes: list[Row] = [{}]
    changes += [{"units": units} for units in (256, 512, 2048)]
    changes += [{"layers": layers} for layers in (2, 3)]
    changes += [{"vocabulary": characters} for characters in (256, 1024, 4096)]
    changes += [{"cell": "lstm"}]
    for change in changes:
        wanted = base | change
        architecture = Architecture.model_validate(wanted | {"vocabulary": [chr(0x4E00 + i) for i in range(wanted["vocabulary"])]})
        backend = opened(_random(architecture))
        alone, together = (decoding(backend, streams)[1] for streams in (1, 64))
        rows.append(
            {
                "network": ", ".join(f"{value} {name}" for name, value in change.items()) or "the included one's size",
                "parameters": architecture.parameter_count,
                "us a step, 1 stream": alone * 1e6,
                "us a step, 64 streams": together * 1e6,
                "characters/s, 1 stream": 1 / alone,
                "characters/s, 64 streams": 64 / together,
            }
        )
    return rows


def check(options: argparse.Namespace) -> list[Row]:
    """The simulation against one real server, on the same requests."""
    machine, most = calibrated()
    rows: list[Row] = []
    with served() as server:
        for load in LOADS:
            asked = arrivals(load * most, options.seconds, seed=round(100 * load))
            real = asyncio.run(sent(Address(server.port, "/generate"), asked))
            simulate(machine, asked)
            for name, measured, simulated in compared(real, asked):
                rows.append(
                    {
                        "figure": name,
                        "load %": 100 * load,
                        "requests/s": load * most,
                        "measured": measured,
                        "simulated": simulated,
                        "off by %": 100 * (simulated / measured - 1) if measured else None,
                    }
                )
    return rows


def fleet(options: argparse.Namespace) -> list[Row]:
    """So many servers at a load, and as many as a number of users needs."""
    machine, most = calibrated()
    needed = int(np.ceil(USERS / PAUSE / most / FLEET_LOAD))
    weights = (shipped().path / WEIGHTS).stat().st_size
    rows: list[Row] = []
    for replicas in sorted({*FLEETS, needed}):
        rate = replicas * FLEET_LOAD * most
        seconds = min(options.seconds, 40_000 / rate) if replicas > 1 else options.seconds
        asked = arrivals(rate, seconds, seed=replicas)
        events = sum(replica.events for replica in simulate(machine, asked, replicas))
        warm = [one.ttft * 1000 for one in asked if one.sent > seconds / 4]
        rows.append(
            {
                "servers": replicas,
                "users": round(rate * PAUSE),
                "requests/s": rate,
                "characters/s": sum(one.characters for one in asked) / seconds,
                **{f"TTFT p{q} ms": float(np.percentile(warm, q)) for q in (50, 99)},
                "refused": sum(one.refused for one in asked),
                "events/s": events / seconds,
                "MB/s of events": events / seconds * EVENT_BYTES / 1e6,
                "GB/s at a swap": replicas * weights / WATCH / 1e9,
            }
        )
    return rows


EVENT_BYTES = 190  # of an event with its id and its chunk's framing, at some 18 characters

PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {"cost": cost, "size": size, "check": check, "fleet": fleet}


# --- what the simulation is told


@cache
def calibrated() -> tuple[Machine, float]:
    """This machine as `fleet` wants it, and the requests a second of `arrivals` that keep it busy all the time."""
    backend = opened(shipped())
    costs = [decoding(backend, rows) for rows in ROWS]
    with served() as server:
        delivery = []
        for rows, (call, step) in zip(ROWS, costs, strict=True):
            steady = measure(server, rows, round(SECONDS / step / 2))
            delivery.append(max(0.0, steady.call_seconds - call - steady.steps * step))
        machine = Machine(ROWS, costs, delivery, request=0, reply=0, slower=1)

        short = [Request(i / SHORT_ONES * SECONDS, ids(START), 1) for i in range(SHORT_ONES)]
        cpu, first = busy(server, short)
        simulate(machine, short[:2])  # the second one's prompt is in the cache, as there
        request = max(0.0, cpu - machine.call(steps=1, rows=1, newcomers=1))
        machine = replace(machine, request=request, reply=first - short[1].ttft - request)

        mixed = arrivals(CALIBRATION * most_requests(machine), 5 * SECONDS, seed=0)
        cpu, _ = busy(server, mixed)
    for _ in range(3):  # slower calls have more streams each
        [replica] = simulate(machine, mixed)
        machine = replace(machine, slower=machine.slower * cpu * len(mixed) / replica.busy)
    print(machine, file=sys.stderr)
    return machine, most_requests(machine)


def busy(server: Server, asked: Sequence[Request]) -> tuple[float, float]:
    """Seconds of the server's processor for each of the requests, and to its first text at the median."""
    before = server.cpu_seconds() or 0.0
    timelines = asyncio.run(sent(Address(server.port, "/generate"), asked))
    return ((server.cpu_seconds() or 0.0) - before) / len(asked), float(np.median(first_texts(timelines))) / 1000


@cache
def shipped_vocabulary() -> list[str]:
    return shipped().config.vocabulary


def ids(text: str) -> NDArray[np.int32]:
    return Vocabulary(shipped_vocabulary()).encode(text)


def most_requests(machine: Machine) -> float:
    """Requests a second of `arrivals` that all slots busy get done."""
    asked = [replace(one, sent=0.0) for one in arrivals(2000, 1)][:1500]
    simulate(machine, asked, limits=replace(Limits(), queue_limit=len(asked)))
    ends = sorted(one.finished or 0.0 for one in asked)
    start, end = ends[len(ends) // 5], ends[len(ends) * 4 // 5]
    return 0.6 * len(ends) / (end - start)


def served(*flags: object) -> AbstractContextManager[Server]:
    return running("service", flags, "/readyz", {SERVER_CORE})


def opened(version: Version) -> Backend:
    """A backend that computes as the server's does, on one core."""
    return open_backend(version, "auto", slots=ROWS[-1])


@dataclass(frozen=True)
class Steady:
    """Streams while all of them run."""

    rate: float  # characters a second
    steps: float  # a call, that is characters an event
    call_seconds: float  # from one call to the next
    characters: int  # from first to last
    cpu_seconds: float
    ttft: Sequence[float]  # ms


def measure(server: Server, streams: int, characters: int) -> Steady:
    before = server.cpu_seconds() or 0.0
    server.forget_peak()
    bodies = [request(characters, seed) for seed in range(streams)]
    timelines = asyncio.run(read_all(Address(server.port, "/generate"), bodies, TIMEOUT))
    begin, end = max(t.arrivals[0][0] for t in timelines), min(t.arrivals[-1][0] for t in timelines)
    if streams > Limits.slots or end <= begin:  # they run after each other
        begin, end = min(t.sent for t in timelines), max(t.arrivals[-1][0] for t in timelines)
    within = [count for t in timelines for moment, count in t.arrivals if begin < moment <= end]
    rate, steps = sum(within) / (end - begin), sum(within) / len(within)
    spent = (server.cpu_seconds() or 0.0) - before
    return Steady(rate, steps, steps * streams / rate, streams * characters, spent, first_texts(timelines))


def decoding(backend: Backend, rows: int, steps: int = 32) -> tuple[float, float]:
    """Seconds that a call of the backend takes, and each of its steps besides."""
    took = [[_timed(backend, rows, count) for count in (1, 1 + steps)] for _ in range(25)]
    short, long = np.median(took[5:], axis=0).tolist()
    each = (long - short) / steps
    return max(0.0, short - each), each


def _timed(backend: Backend, rows: int, steps: int) -> float:
    batch = Batch(
        slots=np.arange(rows, dtype=np.int32),
        starts=dict.fromkeys(range(rows)),
        inputs=np.zeros(rows, np.int32),
        forced=np.full((steps, rows), -1, np.int32),
        uniforms=np.full((steps, rows), 0.5, np.float32),
        sampling=[Sampling()] * rows,
        snapshot_at=np.full(rows, -1, np.int32),
    )
    start = time.perf_counter()
    backend.decode(batch)
    return time.perf_counter() - start


def _random(architecture: Architecture) -> Version:
    rng = np.random.default_rng(0)
    tensors = {
        name: (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32) for name, shape in architecture.tensor_shapes.items()
    }
    version = shipped()
    config = version.config.model_copy(update={**architecture.model_dump(), "parameters": architecture.parameter_count})
    return Version(version.path, config, tensors)


# --- real requests


def body_of(one: Request, seed: int) -> dict[str, Any]:
    characters = shipped_vocabulary()
    return request(one.characters, seed) | {"start_string": "".join(characters[i] for i in one.prompt)}


async def sent(address: Address, asked: Sequence[Request]) -> list[Timeline]:
    """Each request at its time, whatever became of those before it."""
    begin = time.perf_counter()
    streams: list[Stream] = []
    for i, one in enumerate(asked):
        await asyncio.sleep(max(0.0, begin + one.sent - time.perf_counter()))
        streams.append(await open_stream(address, body_of(one, seed=i)))
    await asyncio.wait([stream.ended for stream in streams], timeout=TIMEOUT)
    return [stream.timeline() for stream in streams]


def compared(real: Sequence[Timeline], simulated: Sequence[Request]) -> list[tuple[str, float, float]]:
    """(Figure, measured, simulated), of those that were not refused."""
    refused = [("refused", float(sum(not t.arrivals for t in real)), float(sum(one.refused for one in simulated)))]
    real, simulated = [t for t in real if t.arrivals], [one for one in simulated if not one.refused]
    begin, last = min(t.sent for t in real), max(t.arrivals[-1][0] for t in real)
    characters = sum(one.characters for one in simulated)
    figures = [("characters/s", characters / (last - begin), characters / max(one.finished or 0.0 for one in simulated))]
    times = {
        "TTFT": ([t.first_text for t in real], [one.ttft for one in simulated]),
        "whole answer": ([t.arrivals[-1][0] - t.sent for t in real], [(one.finished or 0.0) - one.sent for one in simulated]),
    }
    for name, (measured, told) in times.items():
        for q in (50, 99):
            figures += [(f"{name} p{q} ms", 1000 * float(np.percentile(measured, q)), 1000 * float(np.percentile(told, q)))]
    return figures + refused


def plot(found: dict[str, list[Row]], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {  # part: what is along, what goes up, lines
        "cost": ("streams", ["characters/s", "of each"]),
        "fleet": ("servers", ["TTFT p50 ms", "TTFT p99 ms"]),
    }
    for part, (along, lines) in shown.items():
        if part in found:
            figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
            for line in lines:
                axes.plot([row[along] for row in found[part]], [row[line] or np.nan for row in found[part]], marker="o", label=line)
            axes.set(xlabel=along, xscale="log", ylim=(0, None))
            axes.legend()
            figure.savefig(folder / f"{part}.png", dpi=150)
            plt.close(figure)
    if "check" in found:
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        for name in ("TTFT p50 ms", "TTFT p99 ms"):
            rows = [row for row in found["check"] if row["figure"] == name]
            for which, style in (("measured", "o-"), ("simulated", "x--")):
                axes.plot([row["load %"] for row in rows], [row[which] for row in rows], style, label=f"{name}, {which}")
        axes.set(xlabel="load %", ylim=(0, None))
        axes.legend()
        figure.savefig(folder / "check.png", dpi=150)
        plt.close(figure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__.partition(": ")[2])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[], help="all of them if none is named")
    parser.add_argument("--seconds", type=float, default=60, help="of each check, and of a fleet at the most")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draws what was found there, as PNG")
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
