"""A scenario in which the wall clock jumps."""

import argparse
import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import START
from tests.soak.clients import (
    gaps,
    generate_body,
    open_streams,
    stream_body,
)
from tests.soak.report import Report
from tests.soak.server import service


async def clocks_jump(report: Report, options: argparse.Namespace) -> None:  # noqa: ARG001
    """The clock jumps a day ahead and two days back, while streams run and a client's rate is used up."""
    library = libfaketime()
    if library is None:
        report.left_out.append("all: libfaketime is not installed")
        return

    async def measure(jump: str, days: int) -> None:
        streams = await open_streams(server, 8, stream_body(10_000, pace=1000))
        if days:
            while (await server.send("/models")).status != 429:
                pass
            offset.write_text(f"{days:+}d")
            answer = await server.send("/v1/completions", {"prompt": START, "max_tokens": 100})
            report.promise(f"after a jump {jump} no client is locked out by the rate limit", answer.status == 200)
            off = answer.json()["created"] - time.time() - days * 86_400
            report.promise(f"after a jump {jump} answers have the clock's time", abs(off) < 60)
            timings = (await server.send("/generate", generate_body(100))).json()["timings"]
            report.promise(f"after a jump {jump} times are sane, not {timings}", all(0 <= ms < 60_000 for ms in timings.values()))
        await asyncio.wait([stream.ended for stream in streams], timeout=60)
        timelines = [stream.timeline() for stream in streams]
        report.promise(f"after a jump {jump} streams continue", all(timeline.whole for timeline in timelines))
        report.add(jump, gaps(timelines))

    with TemporaryDirectory() as folder:
        offset = Path(folder) / "offset"
        offset.write_text("+0")
        faked = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": offset, "FAKETIME_NO_CACHE": 1}
        # Durations use the monotonic clock, which is not faked. With its fix for older systems, threads in Python would not wait.
        faked |= {"FAKETIME_DONT_FAKE_MONOTONIC": 1, "FAKETIME_FORCE_MONOTONIC_FIX": 0}
        with variables(faked), service("--rate-limit", "1000/minute") as server:
            await measure("nowhere", 0)
            await measure("ahead", 1)
            await measure("back", -1)


def libfaketime() -> Path | None:
    """Debian's build for programs with threads; None if it is not installed."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@contextmanager
def variables(values: dict[str, object]) -> Iterator[None]:
    """Environment variables for processes that start meanwhile."""
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]
