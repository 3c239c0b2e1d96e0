"""python -m tests.soak: what the service does when clients, volumes and clocks misbehave.

Real processes (`python -m service` on a copy of the shipped model) and real sockets. Each scenario prints its figures; what the
service promises and does not keep is said, and makes the exit code 1. On Linux only.
"""

import argparse
import asyncio
import ctypes
import json
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.client import Timeline
from benchmarks.machine import describe
from benchmarks.measure import START
from benchmarks.table import table
from service.server import allow_many_connections
from tests.soak import clients
from tests.soak.clients import (
    MODEL,
    Mixed,
    asked,
    connected,
    copy_shipped,
    gaps,
    publish_next,
    service,
    streamed,
    streaming,
    until,
)
from trainer import artifact

TIMEOUT = 5  # --request-timeout where that is what is looked at, in seconds
WATCH = 0.2  # --watch where versions come and go
SEEN = 10 * WATCH  # seconds after which a change in the models folder has been looked at
LONGEST_GAP = 250  # ms between two events of a stream while versions are swapped, at the 99th percentile
LIMIT = 1800  # seconds that a scenario may take, besides --minutes
NEW_MOUNTS = 0x00020000  # CLONE_NEWNS
FREE = "slots, queue and descriptors are free afterwards"
SAME = "the same request has the same answer as before"


@dataclass
class Report:
    """What a scenario found."""

    scenario: str
    figures: dict[str, float | str | None] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)  # promises
    left_out: list[str] = field(default_factory=list)

    def promise(self, what: str, kept: object) -> None:
        if not kept and what not in self.broken:
            self.broken.append(what)

    def add(self, name: str, figures: dict[str, float]) -> None:
        self.figures |= {f"{name}_{figure}": value for figure, value in figures.items()}

    def spread(self, name: str, values: Sequence[float]) -> None:
        self.figures |= {f"{name}_p{q}": round(float(np.percentile(values, q)), 2) if values else None for q in (50, 99)}

    def row(self) -> dict[str, Any]:
        return {"scenario": self.scenario, **self.figures, "broken": self.broken, "left_out": self.left_out}

    def __str__(self) -> str:
        lines = [table([self.scenario, ""], [[name, value] for name, value in self.figures.items()])]
        lines += [f"left out: {what}" for what in self.left_out] + [f"BROKEN: {what}" for what in self.broken]
        return "\n".join(lines)


def main() -> int:
    """Runs and prints; 1 when a promise was broken."""
    options = _options()
    allow_many_connections()
    machine = describe()
    if not options.json:
        print("\n".join(f"{name}: {value}" for name, value in machine.items()), end="\n\n", flush=True)
    reports = []
    for name in options.scenarios or SCENARIOS:
        report = Report(name)
        reports.append(report)
        try:
            asyncio.run(asyncio.wait_for(SCENARIOS[name](report, options), LIMIT + options.minutes * 60))
        except Exception as error:
            # Whatever it is, the service or its clients did not do what they should; the other scenarios go on.
            traceback.print_exc()
            report.broken.append(f"{name} did not come to its end: {error!r}"[:1000])
        if not options.json:
            print(report, end="\n\n", flush=True)
    if options.json:
        print(json.dumps([report.row() | {"machine": machine} for report in reports], indent=1))
    return 1 if any(report.broken for report in reports) else 0


async def clients_vanish(report: Report, options: argparse.Namespace) -> None:
    """Clients that ask or begin to, and are gone: two rounds, of which the second may leave nothing more behind."""
    count, rng, room = options.of(1000), random.Random(0), asyncio.Semaphore(100)

    async def one() -> None:
        async with room:
            await clients.vanish(server.port, rng)

    with service() as server:
        text, descriptors, memory = await server.said(), server.descriptors(), [server.memory() or 0]
        for _ in range(2):
            await asyncio.gather(*(one() for _ in range(count)))
            start = time.perf_counter()
            report.promise(FREE, await until(partial(server.rested, descriptors)))
            report.figures["rested_after_seconds"] = round(time.perf_counter() - start, 2)
            memory.append(server.memory() or 0)
        report.promise(SAME, await server.said() == text)
    report.figures |= {"clients_a_round": count, "descriptors": descriptors}
    report.figures |= {f"memory_mb_{when}": round(mb, 1) for when, mb in zip(("before", "after_1", "after_2"), memory, strict=True)}
    report.promise("the second round leaves no more memory than the first", memory[2] - memory[1] < 0.03 * memory[1])


async def readers_stall(report: Report, options: argparse.Namespace) -> None:
    """Readers that read nothing beside 8 streams; those streams alone, beside as many who read, and beside those who don't."""
    readers, endless = options.of(50), streamed(100_000)

    async def measure(name: str) -> None:
        async with streaming(server.port, 8, streamed(1000)) as over:
            await asyncio.sleep(2 * TIMEOUT)
        report.promise(f"streams {name} are whole", all(timeline.whole for timeline in over))
        report.add(name, {"characters_per_second": round(clients.rate(over)), **gaps(over)})

    with service("--request-timeout", TIMEOUT) as server:
        descriptors = server.descriptors()
        await measure("alone")
        others = await clients.open_streams(server, readers, endless)
        await measure("beside_readers")
        for other in others:
            other.leave()
        await until(partial(server.rested, descriptors))
        stalled = [clients.open_unread(server.port, endless) for _ in range(readers)]
        cutting = asyncio.create_task(clients.cut_after(server.port, {connection.getsockname()[1] for connection in stalled}))
        await measure("beside_stalled")
        after = await cutting
        report.promise(FREE, await until(partial(server.rested, descriptors)))
        for connection in stalled:
            connection.close()
    report.figures |= {"stalled": readers, "stalled_closed": len(after)}
    report.spread("stalled_closed_after_seconds", after)
    report.promise("who reads nothing is cut in time", len(after) == readers and max(after) < 2 * TIMEOUT)


async def requests_dribble(report: Report, options: argparse.Namespace) -> None:
    """Requests that do not arrive, of three kinds, and beside them requests that do."""
    body = asked(100)
    whole = clients.request("/generate", body)
    kinds = [
        ("half_heads", options.of(500), whole[:40]),
        ("half_bodies", options.of(100), whole[:-30]),
        ("idle", options.of(200), b""),
    ]

    async def latencies() -> list[float]:
        taken = []
        for _ in range(20):
            start = time.perf_counter()
            answer = await server.ask("/generate", body)
            taken.append((time.perf_counter() - start) * 1000)
            report.promise("a request is answered beside those that do not arrive", answer.status == 200)
        return taken

    with service("--request-timeout", TIMEOUT) as server:
        descriptors = server.descriptors()
        report.spread("alone_ms", await latencies())
        closing = {
            kind: asyncio.gather(*(clients.closed_after(server.port, sent, dribbles=kind == "half_bodies") for _ in range(count)))
            for kind, count, sent in kinds
        }
        await until(partial(server.connects, sum(count for _, count, _ in kinds)), TIMEOUT)
        report.spread("beside_ms", await latencies())
        report.figures["connected_meanwhile"] = len(connected(server.port))
        for kind, count, _ in kinds:
            after = [seconds for seconds in await closing[kind] if seconds is not None]
            report.figures |= {kind: count, f"{kind}_closed": len(after)}
            report.spread(f"{kind}_closed_after_seconds", after)
            report.promise(f"all {kind} are closed in time", len(after) == count and max(after) < 2 * TIMEOUT)
        report.promise(FREE, await until(partial(server.rested, descriptors)))


async def soak(report: Report, options: argparse.Namespace) -> None:
    """All kinds of requests, more of them than slots, for --minutes; memory by the second."""
    moments, memory, waiting = list[float](), list[float](), list[float]()
    end = time.perf_counter() + options.minutes * 60

    async def send(mixed: Mixed) -> None:
        while time.perf_counter() < end:
            await mixed.send()

    async def look() -> None:
        while time.perf_counter() < end:
            moments.append(time.perf_counter() / 60)
            memory.append(server.memory() or 0)
            waiting.append(await server.gauge("folio_num_requests_waiting"))
            await asyncio.sleep(1)

    with service("--queue-limit", 48) as server:
        text, descriptors = await server.said(), server.descriptors()
        senders = [Mixed(server.port, seed) for seed in range(100)]
        await asyncio.gather(look(), *map(send, senders))
        report.promise(FREE, await until(partial(server.rested, descriptors)))
        report.promise(SAME, await server.said() == text)
        characters = await server.gauge("folio_generation_tokens_total")
    errors, third = [error for mixed in senders for error in mixed.errors], len(moments) // 3
    slope, _ = np.polyfit(moments[third:], memory[third:], 1)
    report.figures |= {"minutes": options.minutes, "requests": sum(mixed.requests for mixed in senders)}
    report.figures |= {"answered_429": sum(mixed.busy for mixed in senders), "left": sum(mixed.left for mixed in senders)}
    report.figures |= {"errors": len(errors), "characters": round(characters), "waiting_mean": round(float(np.mean(waiting)), 1)}
    report.figures |= {"memory_mb_first": round(memory[0], 1), "memory_mb_most": round(max(memory), 1)}
    report.figures |= {"memory_mb_last": round(memory[-1], 1), "memory_mb_per_minute": round(float(slope), 3)}
    report.promise(f"every answer is as it should be, not {errors[:3]}", not errors)


async def versions_swap(report: Report, options: argparse.Namespace) -> None:
    """Versions published one after another while 32 streams run."""
    versions, body, loop = options.of(50), streamed(1500), asyncio.get_running_loop()
    with service("--watch", WATCH) as server, ProcessPoolExecutor(1, get_context("spawn")) as publisher:
        descriptors = server.descriptors()
        async with streaming(server.port, 32, body) as over:
            await asyncio.sleep(15)
        report.add("without", gaps(over))
        await until(partial(server.rested, descriptors))
        before = server.memory() or 0
        server.forget_peak()
        start = time.perf_counter()
        async with streaming(server.port, 32, body) as over:
            for _ in range(versions):
                number = await loop.run_in_executor(publisher, publish_next, server.models / MODEL)
                report.promise("a new version is served", await until(partial(server.serves, number)))
                clients.remove_before(server.models, number)
        seconds, peak = time.perf_counter() - start, server.peak_memory() or 0
        report.promise(FREE, await until(partial(server.rested, descriptors)))
        await asyncio.sleep(SEEN)  # by then the engines that were replaced are free
        after = server.memory() or 0
    report.figures |= {"versions": versions, "seconds_a_version": round(seconds / versions, 2), **told(over)}
    report.figures |= {"memory_mb_before": round(before, 1), "memory_mb_after": round(after, 1), "memory_mb_peak": round(peak, 1)}
    report.promise("no request fails", all(timeline.whole for timeline in over))
    report.promise("memory is back to within a tenth", after < 1.1 * before)
    report.promise(f"99 of 100 gaps are below {LONGEST_GAP} ms", gaps(over)["gap_ms_p99"] < LONGEST_GAP)


async def publishers_die(report: Report, options: argparse.Namespace) -> None:
    """Publishers killed at any moment, and a server that looks on and serves."""
    kills, rng, lists = options.of(50), random.Random(0), list[Any]()

    async def look() -> None:
        while True:
            lists.append((await server.ask("/models")).json())
            await asyncio.sleep(0.05)

    with service("--watch", WATCH) as server:
        model = server.models / MODEL
        whole = set(artifact.versions(model))
        async with streaming(server.port, 4, streamed(1000)) as over:
            looking = asyncio.create_task(look())
            for _ in range(kills):
                await clients.publish_and_die(model, rng.uniform(0, 0.5))
                for version in set(artifact.versions(model)) - whole:
                    await asyncio.to_thread(artifact.read, model / str(version))  # raises what ends the scenario
                    whole.add(version)
                clients.remove_before(server.models, lists[-1]["models"][0]["version"])
            looking.cancel()
            leftovers = len(list(model.glob(f"{artifact.DRAFT}*")))
            number = await asyncio.to_thread(publish_next, model)
            report.promise("the next version is published and served", await until(partial(server.serves, number)))
    shown = {model["version"] for models in lists for model in models["models"]}
    report.figures |= {"kills": kills, "published": len(whole) - 1, "leftovers": leftovers}
    report.figures |= {"lists": len(lists), "versions_served": len(shown), **told(over)}
    report.promise("only whole versions are served", shown <= whole)
    report.promise("no version is refused", not any(models["refused"] for models in lists))
    report.promise("no request fails", all(timeline.whole for timeline in over))


async def volumes_fail(report: Report, options: argparse.Namespace) -> None:  # noqa: ARG001
    """A models folder that goes and comes, is damaged, and gets what it should not; then one that is full, and read-only."""
    with service("--watch", WATCH) as server:
        text, number = await server.said(), artifact.versions(server.models / MODEL)[-1]
        shipped = server.models / MODEL / str(number)
        async with streaming(server.port, 8, streamed(1000)) as over:
            away = server.models.rename(server.models.with_name("away"))
            await asyncio.sleep(SEEN)
            report.promise("without its folder it serves on", await server.serves(number))
            away.rename(server.models)
            for version in await asyncio.to_thread(clients.spoiled, shipped):
                report.promise(f"{version.name} is refused", await until(partial(server.refuses, version)))
            report.figures["refused"] = len(await server.refused())
            os.truncate(shipped / artifact.WEIGHTS, 1000)
            await asyncio.sleep(SEEN)
            report.promise("the version that serves goes on", await server.serves(number))
            report.promise(SAME, await server.said() == text)
        report.figures |= told(over)
        report.promise("no request fails", all(timeline.whole for timeline in over))
    if ctypes.CDLL(None).unshare(NEW_MOUNTS):
        report.left_out.append("full and read-only volumes: mounting is not permitted here")
        return
    command("mount", "--make-rprivate", "/")  # so that what is mounted is for this process and its children, and ends with it
    with TemporaryDirectory() as folder:
        command("mount", "-t", "tmpfs", "-o", "size=24m", "folio", folder)
        try:
            await full_and_read_only(report, copy_shipped(Path(folder)))
        finally:
            command("umount", folder)


async def full_and_read_only(report: Report, models: Path) -> None:
    """On a volume that has no room for a second version, and then can't be written."""
    with service("--watch", WATCH, models=models) as server:
        text = await server.said()
        async with streaming(server.port, 8, streamed(1000)) as over:
            full = clients.why_not_published(models)  # not in a thread: others were there before the mount, and don't see it
        report.promise("on a full volume no request fails", all(timeline.whole for timeline in over))
        report.promise(SAME, await server.said() == text)
    report.promise("a full volume is a clear error", "No space left on device" in full)
    report.promise("what found no room is gone", len(list((models / MODEL).iterdir())) == 1)
    command("mount", "-o", "remount,ro", models)
    read_only = clients.why_not_published(models)
    report.promise("a read-only volume is a clear error", "Read-only file system" in read_only)
    with service("--watch", WATCH, models=models) as server:
        report.promise("a read-only volume is served from", await server.said() == text)
    report.figures |= {"full": full.rpartition(": ")[2], "read_only": read_only.rpartition(": ")[2]}


async def clocks_jump(report: Report, options: argparse.Namespace) -> None:  # noqa: ARG001
    """A wall clock that jumps a day ahead and two days back while streams run and a client's rate is used up."""
    library = libfaketime()
    if library is None:
        report.left_out.append("all: libfaketime is not installed")
        return

    async def measure(jump: str, days: int) -> None:
        streams = await clients.open_streams(server, 8, streamed(10_000, pace=1000))
        if days:
            while (await server.ask("/models")).status != 429:
                pass
            offset.write_text(f"{days:+}d")
            answer = await server.ask("/v1/completions", {"prompt": START, "max_tokens": 100})
            report.promise(f"after a jump {jump} nobody is locked out by the rate limit", answer.status == 200)
            off = answer.json()["created"] - time.time() - days * 86_400
            report.promise(f"after a jump {jump} answers have the clock's time", abs(off) < 60)
            timings = (await server.ask("/generate", asked(100))).json()["timings"]
            report.promise(f"after a jump {jump} times are sane, not {timings}", all(0 <= ms < 60_000 for ms in timings.values()))
        await asyncio.wait([stream.ended for stream in streams], timeout=60)
        timelines = [stream.timeline() for stream in streams]
        report.promise(f"after a jump {jump} streams go on", all(timeline.whole for timeline in timelines))
        report.add(jump, gaps(timelines))

    with TemporaryDirectory() as folder:
        offset = Path(folder) / "offset"
        offset.write_text("+0")
        faked = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": offset, "FAKETIME_NO_CACHE": 1}
        # Streams are timed by the other clock. Without the fix, for older systems, Python's waiting threads don't wait.
        faked |= {"FAKETIME_DONT_FAKE_MONOTONIC": 1, "FAKETIME_FORCE_MONOTONIC_FIX": 0}
        with variables(faked), service("--rate-limit", "1000/minute") as server:
            await measure("nowhere", 0)
            await measure("ahead", 1)
            await measure("back", -1)


async def two_serve(report: Report, options: argparse.Namespace) -> None:
    """Two servers on one volume: streams cut on one and gone on with on the other, before and after a new version."""
    cuts, rng, resumed = options.of(50), random.Random(0), 0
    with service("--watch", WATCH) as one, service("--watch", WATCH, models=one.models) as other:
        for publish in (False, True):
            model = one.models / MODEL
            number = await asyncio.to_thread(publish_next, model) if publish else artifact.versions(model)[-1]
            for server in (one, other):
                report.promise("both serve what is published", await until(partial(server.serves, number)))
            for seed in range(cuts):
                body = streamed(rng.randint(1000, 3000), seed=seed)
                whole = (await one.ask("/generate", body | {"stream": False})).json()["text"]
                first = clients.texts((await one.ask("/generate", body, most=rng.randint(500, 6000))).content)
                last = [f"Last-Event-ID: {first[-1][1]}"] if first else []
                rest = clients.texts((await other.ask("/generate", body, *last)).content)
                resumed += bool(first and rest)
                report.promise("nothing is lost or repeated", START + "".join(text for text, _ in first + rest) == whole)
    report.figures |= {"cuts": 2 * cuts, "resumed": resumed}


SCENARIOS: dict[str, Callable[[Report, argparse.Namespace], Awaitable[None]]] = {
    "vanish": clients_vanish,
    "slow": readers_stall,
    "slowloris": requests_dribble,
    "soak": soak,
    "swaps": versions_swap,
    "publish": publishers_die,
    "volume": volumes_fail,
    "clock": clocks_jump,
    "two": two_serve,
}


def told(over: Sequence[Timeline]) -> dict[str, float]:
    """Of streams that are over."""
    return {"streams": len(over), "failed": sum(not timeline.whole for timeline in over), **gaps(over)}


def libfaketime() -> Path | None:
    """Debian's, for programs with threads."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@contextmanager
def variables(values: dict[str, object]) -> Iterator[None]:
    """The environment of processes that are started meanwhile."""
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]


def command(*parts: object) -> None:
    subprocess.run([str(part) for part in parts], check=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition(": ")[2])
    every = ", ".join(SCENARIOS)
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], metavar="SCENARIO", help=f"{every}; without any all")
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    parser.add_argument("--minutes", type=float, default=10, help="of the soak")
    parser.add_argument("--share", type=float, default=1, help="of the clients, versions and kills, to make a run shorter")
    options = parser.parse_args()
    options.of = lambda count: max(1, round(options.share * count))
    return options


if __name__ == "__main__":
    sys.exit(main())
