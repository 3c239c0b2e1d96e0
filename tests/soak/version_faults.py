"""Scenarios in which versions, publishers and volumes come, go and break."""

import argparse
import asyncio
import ctypes
import os
import random
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import START
from tests.soak.clients import (
    gaps,
    stream_body,
    streaming,
    texts,
    until,
)
from tests.soak.publishers import broken_copies, publish_and_die, publish_next, publishing_error, remove_before
from tests.soak.report import FREE, SAME, Report, stream_figures
from tests.soak.server import MODEL, copy_included, service
from trainer import artifact

WATCH = 0.2  # --watch, in seconds
SEEN = 10 * WATCH  # seconds after which the server has seen a change in the models folder
LONGEST_GAP = 250  # ms between two events of a stream while versions are swapped, at the 99th percentile
NEW_MOUNTS = 0x00020000  # CLONE_NEWNS


async def versions_swap(report: Report, options: argparse.Namespace) -> None:
    """Versions are published one after another while 32 streams run."""
    versions, body, loop = options.of(50), stream_body(1500), asyncio.get_running_loop()
    with service("--watch", WATCH) as server, ProcessPoolExecutor(1, get_context("spawn")) as publisher:
        descriptors = server.descriptors()
        async with streaming(server.port, 32, body) as over:
            await asyncio.sleep(15)
        report.add("without", gaps(over))
        await until(partial(server.is_idle, descriptors))
        before = server.memory() or 0
        server.forget_peak()
        start = time.perf_counter()
        async with streaming(server.port, 32, body) as over:
            for _ in range(versions):
                number = await loop.run_in_executor(publisher, publish_next, server.models / MODEL)
                report.promise("a new version is served", await until(partial(server.serves, number)))
                remove_before(server.models, number)
        seconds, peak = time.perf_counter() - start, server.peak_memory() or 0
        report.promise(FREE, await until(partial(server.is_idle, descriptors)))
        await asyncio.sleep(SEEN)  # by then the replaced engines are freed
        after = server.memory() or 0
    report.figures |= {"versions": versions, "seconds_a_version": round(seconds / versions, 2), **stream_figures(over)}
    report.figures |= {"memory_mb_before": round(before, 1), "memory_mb_after": round(after, 1), "memory_mb_peak": round(peak, 1)}
    report.promise("no request fails", all(timeline.whole for timeline in over))
    report.promise("memory is back to within a tenth", after < 1.1 * before)
    report.promise(f"99 of 100 gaps are below {LONGEST_GAP} ms", gaps(over)["gap_ms_p99"] < LONGEST_GAP)


async def publishers_die(report: Report, options: argparse.Namespace) -> None:
    """Publishers are killed at random moments while a server watches the folder."""
    kills, rng, lists = options.of(50), random.Random(0), list[Any]()

    async def look() -> None:
        while True:
            lists.append((await server.send("/models")).json())
            await asyncio.sleep(0.05)

    with service("--watch", WATCH) as server:
        model = server.models / MODEL
        whole = set(artifact.versions(model))
        async with streaming(server.port, 4, stream_body(1000)) as over:
            looking = asyncio.create_task(look())
            for _ in range(kills):
                await publish_and_die(model, rng.uniform(0, 0.5))
                for version in set(artifact.versions(model)) - whole:
                    await asyncio.to_thread(artifact.read, model / str(version))  # an error ends the scenario
                    whole.add(version)
                remove_before(server.models, lists[-1]["models"][0]["version"])
            looking.cancel()
            leftovers = len(list(model.glob(f"{artifact.DRAFT}*")))
            number = await asyncio.to_thread(publish_next, model)
            report.promise("the next version is published and served", await until(partial(server.serves, number)))
    shown = {model["version"] for models in lists for model in models["models"]}
    report.figures |= {"kills": kills, "published": len(whole) - 1, "leftovers": leftovers}
    report.figures |= {"lists": len(lists), "versions_served": len(shown), **stream_figures(over)}
    report.promise("only whole versions are served", shown <= whole)
    report.promise("no version is refused", not any(models["refused"] for models in lists))
    report.promise("no request fails", all(timeline.whole for timeline in over))


async def volumes_fail(report: Report, options: argparse.Namespace) -> None:  # noqa: ARG001
    """A models folder disappears and returns, and gets broken versions; then a full and a read-only volume."""
    with service("--watch", WATCH) as server:
        text, number = await server.sample(), artifact.versions(server.models / MODEL)[-1]
        shipped = server.models / MODEL / str(number)
        async with streaming(server.port, 8, stream_body(1000)) as over:
            away = server.models.rename(server.models.with_name("away"))
            await asyncio.sleep(SEEN)
            report.promise("without its folder it continues to serve", await server.serves(number))
            away.rename(server.models)
            for version in await asyncio.to_thread(broken_copies, shipped):
                report.promise(f"{version.name} is refused", await until(partial(server.refuses, version)))
            report.figures["refused"] = len(await server.refused())
            os.truncate(shipped / artifact.WEIGHTS, 1000)
            await asyncio.sleep(SEEN)
            report.promise("the version that serves continues", await server.serves(number))
            report.promise(SAME, await server.sample() == text)
        report.figures |= stream_figures(over)
        report.promise("no request fails", all(timeline.whole for timeline in over))
    if ctypes.CDLL(None).unshare(NEW_MOUNTS):
        report.left_out.append("full and read-only volumes: mounting is not permitted here")
        return
    command("mount", "--make-rprivate", "/")  # so that mounts are private to this process and its children
    with TemporaryDirectory() as folder:
        command("mount", "-t", "tmpfs", "-o", "size=24m", "folio", folder)
        try:
            await full_and_read_only(report, copy_included(Path(folder)))
        finally:
            command("umount", folder)


async def full_and_read_only(report: Report, models: Path) -> None:
    """A volume without space for a second version, then the same volume read-only."""
    with service("--watch", WATCH, models=models) as server:
        text = await server.sample()
        async with streaming(server.port, 8, stream_body(1000)) as over:
            full = publishing_error(models)  # not in a thread: threads that started before the mount do not see it
        report.promise("on a full volume no request fails", all(timeline.whole for timeline in over))
        report.promise(SAME, await server.sample() == text)
    report.promise("a full volume is a clear error", "No space left on device" in full)
    report.promise("the version without space is removed", len(list((models / MODEL).iterdir())) == 1)
    command("mount", "-o", "remount,ro", models)
    read_only = publishing_error(models)
    report.promise("a read-only volume is a clear error", "Read-only file system" in read_only)
    with service("--watch", WATCH, models=models) as server:
        report.promise("a read-only volume is served from", await server.sample() == text)
    report.figures |= {"full": full.rpartition(": ")[2], "read_only": read_only.rpartition(": ")[2]}


async def two_serve(report: Report, options: argparse.Namespace) -> None:
    """Streams are cut on one server and resumed on another, before and after a new version."""
    cuts, rng, resumed = options.of(50), random.Random(0), 0
    with service("--watch", WATCH) as one, service("--watch", WATCH, models=one.models) as other:
        for publish in (False, True):
            model = one.models / MODEL
            number = await asyncio.to_thread(publish_next, model) if publish else artifact.versions(model)[-1]
            for server in (one, other):
                report.promise("both serve what is published", await until(partial(server.serves, number)))
            for seed in range(cuts):
                body = stream_body(rng.randint(1000, 3000), seed=seed)
                whole = (await one.send("/generate", body | {"stream": False})).json()["text"]
                first = texts((await one.send("/generate", body, most=rng.randint(500, 6000))).content)
                last = [f"Last-Event-ID: {first[-1][1]}"] if first else []
                rest = texts((await other.send("/generate", body, *last)).content)
                resumed += bool(first and rest)
                report.promise("nothing is lost or repeated", START + "".join(text for text, _ in first + rest) == whole)
    report.figures |= {"cuts": 2 * cuts, "resumed": resumed}


def command(*parts: object) -> None:
    subprocess.run([str(part) for part in parts], check=True)
