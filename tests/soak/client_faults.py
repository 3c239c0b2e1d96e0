"""Scenarios in which clients vanish, read nothing, send slowly, or are many."""

import argparse
import asyncio
import random
import time
from functools import partial

import numpy as np

from tests.soak.clients import (
    closed_after,
    connected,
    disconnected_after,
    gaps,
    generate_body,
    open_streams,
    open_unreading,
    rate,
    request,
    stream_body,
    streaming,
    until,
    vanish,
)
from tests.soak.mixed import Mixed
from tests.soak.report import FREE, SAME, Report
from tests.soak.server import service

TIMEOUT = 5  # --request-timeout, in seconds


async def clients_vanish(report: Report, options: argparse.Namespace) -> None:
    """Two rounds of clients that disconnect; the second must leave no more behind than the first."""
    count, rng, room = options.of(1000), random.Random(0), asyncio.Semaphore(100)

    async def one() -> None:
        async with room:
            await vanish(server.port, rng)

    with service() as server:
        text, descriptors, memory = await server.sample(), server.descriptors(), [server.memory() or 0]
        for _ in range(2):
            await asyncio.gather(*(one() for _ in range(count)))
            start = time.perf_counter()
            report.promise(FREE, await until(partial(server.is_idle, descriptors)))
            report.figures["rested_after_seconds"] = round(time.perf_counter() - start, 2)
            memory.append(server.memory() or 0)
        report.promise(SAME, await server.sample() == text)
    report.figures |= {"clients_a_round": count, "descriptors": descriptors}
    report.figures |= {f"memory_mb_{when}": round(mb, 1) for when, mb in zip(("before", "after_1", "after_2"), memory, strict=True)}
    report.promise("the second round leaves no more memory than the first", memory[2] - memory[1] < 0.03 * memory[1])


async def readers_stall(report: Report, options: argparse.Namespace) -> None:
    """8 streams alone, beside clients that read, and beside clients that read nothing."""
    readers, endless = options.of(50), stream_body(100_000)

    async def measure(name: str) -> None:
        async with streaming(server.port, 8, stream_body(1000)) as over:
            await asyncio.sleep(2 * TIMEOUT)
        report.promise(f"streams {name} are whole", all(timeline.whole for timeline in over))
        report.add(name, {"characters_per_second": round(rate(over)), **gaps(over)})

    with service("--request-timeout", TIMEOUT) as server:
        descriptors = server.descriptors()
        await measure("alone")
        others = await open_streams(server, readers, endless)
        await measure("beside_readers")
        for other in others:
            other.leave()
        await until(partial(server.is_idle, descriptors))
        stalled = [open_unreading(server.port, endless) for _ in range(readers)]
        cutting = asyncio.create_task(disconnected_after(server.port, {connection.getsockname()[1] for connection in stalled}))
        await measure("beside_stalled")
        after = await cutting
        report.promise(FREE, await until(partial(server.is_idle, descriptors)))
        for connection in stalled:
            connection.close()
    report.figures |= {"stalled": readers, "stalled_closed": len(after)}
    report.spread("stalled_closed_after_seconds", after)
    report.promise("clients that read nothing are disconnected in time", len(after) == readers and max(after) < 2 * TIMEOUT)


async def requests_dribble(report: Report, options: argparse.Namespace) -> None:
    """Three kinds of requests that never arrive as a whole, and complete requests beside them."""
    body = generate_body(100)
    whole = request("/generate", body)
    kinds = [
        ("half_heads", options.of(500), whole[:40]),
        ("half_bodies", options.of(100), whole[:-30]),
        ("idle", options.of(200), b""),
    ]

    async def latencies() -> list[float]:
        taken = []
        for _ in range(20):
            start = time.perf_counter()
            answer = await server.send("/generate", body)
            taken.append((time.perf_counter() - start) * 1000)
            report.promise("a request is answered beside those that do not arrive", answer.status == 200)
        return taken

    with service("--request-timeout", TIMEOUT) as server:
        descriptors = server.descriptors()
        report.spread("alone_ms", await latencies())
        closing = {
            kind: asyncio.gather(*(closed_after(server.port, sent, dribbles=kind == "half_bodies") for _ in range(count)))
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
        report.promise(FREE, await until(partial(server.is_idle, descriptors)))


async def soak(report: Report, options: argparse.Namespace) -> None:
    """Requests of all kinds, more than there are slots, for --minutes; memory is sampled each second."""
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
        text, descriptors = await server.sample(), server.descriptors()
        senders = [Mixed(server.port, seed) for seed in range(100)]
        await asyncio.gather(look(), *map(send, senders))
        report.promise(FREE, await until(partial(server.is_idle, descriptors)))
        report.promise(SAME, await server.sample() == text)
        characters = await server.gauge("folio_generation_tokens_total")
    errors, third = [error for mixed in senders for error in mixed.errors], len(moments) // 3
    slope, _ = np.polyfit(moments[third:], memory[third:], 1)
    report.figures |= {"minutes": options.minutes, "requests": sum(mixed.requests for mixed in senders)}
    report.figures |= {"answered_429": sum(mixed.busy for mixed in senders), "left": sum(mixed.left for mixed in senders)}
    report.figures |= {"errors": len(errors), "characters": round(characters), "waiting_mean": round(float(np.mean(waiting)), 1)}
    report.figures |= {"memory_mb_first": round(memory[0], 1), "memory_mb_most": round(max(memory), 1)}
    report.figures |= {"memory_mb_last": round(memory[-1], 1), "memory_mb_per_minute": round(float(slope), 3)}
    report.promise(f"every answer is as it should be, not {errors[:3]}", not errors)
