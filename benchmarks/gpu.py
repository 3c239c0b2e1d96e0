"""python -m benchmarks.gpu: the step on a GPU. Equal bits first, then speeds beside PyTorch's, then the service over HTTP.

With --compile: compiles the kernels and reports what they need, which works without a GPU.

Needs the extra `cuda` and what the service needs; PyTorch is optional. Takes 25 seconds on an H200.
"""

import argparse
import asyncio
import faulthandler
import io
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.client import Address, read_all
from benchmarks.measure import START, rate_of
from benchmarks.server import ServerFailed, running
from benchmarks.systems import shipped
from benchmarks.table import table
from service.generation.backend import Batch
from service.generation.core import EngineCore
from service.generation.cuda.backend import CudaBackend, gives_the_references_bits
from service.generation.cuda.device import CudaError, Gpu, compile_cubin, open_gpu
from service.generation.cuda.layout import STREAMED_SHARED, Resident
from service.generation.quantized import quantize
from service.generation.request import Generation, Prompt
from service.generation.sampling import Automaton, Sampling
from trainer.artifact import Version
from trainer.vocabulary import Vocabulary

ARCHITECTURES = {"sm_80": (108, 163 << 10), "sm_90": (132, 227 << 10)}  # A100, H100: multiprocessors, shared memory of a block
GOLDEN = Path(__file__).parents[1] / "tests" / "service" / "generation" / "golden.txt"
ROWS = {1: 64, 16: 32, 64: 32, 1024: 6}  # steps that are compared with the reference, by rows
STREAMS = (1, 8, 64, 256, 1024, 4096)
PEER_STREAMS = (1, 64, 1024)
STEPS = 512  # of a call, as the service's
SECONDS = 1.0  # of a measurement
SERVED = {1: 50_000, 64: 20_000}  # characters of a stream over HTTP, by streams
MAX_SPILLS = 64  # bytes
LIMIT = 235  # seconds that the program may take


def compile_all(version: Version) -> list[dict[str, Any]]:
    """What each kernel needs, for each architecture, as the shipped network uses it. Raises CudaError."""
    network = quantize(version.config, version.tensors)
    rows = []
    for arch, limits in ARCHITECTURES.items():
        fit = Resident.fit(network, *limits)
        if fit is None:
            raise CudaError(f"the network does not fit the shared memory of {arch}")
        shared = {"advance_few": fit.few, "advance_many": fit.many}
        for source, macros in (("streamed.cu", {}), ("resident.cu", fit.macros(network))):
            log, start = io.StringIO(), time.perf_counter()
            compile_cubin(source, arch, macros, log)
            seconds = round(time.perf_counter() - start, 2)
            for kernel, registers, spills in read_ptxas(log.getvalue()):
                bytes_of_block = shared.get(kernel, STREAMED_SHARED)
                rows.append({"kernel": f"{kernel}, {arch}", "registers": registers, "spills": spills, "shared": bytes_of_block})
                rows[-1] |= {"width": fit.width, "source_seconds": seconds}
    return rows


def read_ptxas(log: str) -> list[tuple[str, int, int]]:
    """(Kernel, registers, bytes of spills) of each kernel in ptxas's output."""
    pattern = r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers"
    return [(name, int(registers), int(spills)) for name, spills, registers in re.findall(pattern, log, re.DOTALL)]


def options(vocabulary: int) -> list[Sampling]:
    """One of each kind."""
    rng = np.random.default_rng(0)
    loop = np.where(rng.random((3, vocabulary + 1)) < 0.5, rng.integers(0, 3, (3, vocabulary + 1)), -1).astype(np.int32)
    loop[:, 0] = 0
    return [
        Sampling(top_k=5),
        Sampling(top_p=0.9),
        Sampling(temperature=1.5, min_p=0.05),
        Sampling(allowed=np.arange(vocabulary) % 3 != 1),
        Sampling(bias=rng.normal(0, 2, vocabulary).astype(np.float32)),
        Sampling(presence_penalty=0.5, frequency_penalty=0.3, repetition_penalty=1.2),
        Sampling(automaton=Automaton(loop, np.zeros(3, np.int32))),
        Sampling(temperature=0),
    ]


def check(version: Version, device: Gpu) -> list[dict[str, Any]]:
    """Whether the device gives the reference's bits: plain rows, rows with any options, and the golden text."""
    network, slots = quantize(version.config, version.tensors), max(ROWS)
    backend = CudaBackend(version.config, version.tensors, slots, device)
    plain = [Sampling(temperature=t) for t in (1.0, 0.5, 0.0, 1.7)]
    rows = []
    for count, steps in ROWS.items():
        for kind, samplings in (("a temperature", plain), ("any options", [*options(network.vocabulary), *plain])):
            same = gives_the_references_bits(backend.network, network, list(islice(cycle(samplings), count)), steps)
            rows.append({"check": f"{count} rows, {steps} steps, {kind}", "equal": same})
            print(f"  {rows[-1]['check']}: {'equal bits' if same else 'DIFFERENT BITS'}", flush=True)
    expected = GOLDEN.read_text()
    same = write(backend, version, len(expected) - len(START)) == expected
    rows.append({"check": f"the golden text, {len(expected):,} characters", "equal": same})
    print(f"  {rows[-1]['check']}: {'equal' if same else 'DIFFERENT'}", flush=True)
    return rows


def write(backend: CudaBackend, version: Version, characters: int) -> str:
    vocabulary = Vocabulary(version.config.vocabulary)
    core, text = EngineCore(backend), START
    core.submit(Generation(Prompt(vocabulary.encode(START)), characters, Sampling(), 1))
    while len(text) < len(START) + characters:
        text += "".join(vocabulary.decode(output.chunk.characters) for output in core.step()[0])
    return text


def speeds(version: Version, device: Gpu) -> list[dict[str, Any]]:
    """Characters/s by streams: calls of STEPS steps, with their copies to and from the device."""
    backend = CudaBackend(version.config, version.tensors, max(STREAMS), device)
    rows = []
    for streams in STREAMS:
        rng, slots = np.random.default_rng(0), np.arange(streams, dtype=np.int32)
        inputs, uniforms = slots * 0, rng.random((STEPS, streams), np.float32)
        first = Batch(
            slots, dict.fromkeys(range(streams)), inputs, np.full((STEPS, streams), -1, np.int32), uniforms,
            [Sampling()] * streams, inputs - 1,
        )  # fmt: skip
        following = replace(first, starts={}, inputs=backend.decode(first).chosen[-1])
        rate = rate_of(lambda following=following: int(backend.decode(following).chosen.size), SECONDS)
        rows.append({"streams": streams, "characters_per_second": round(rate), "us_per_step": round(1e6 * streams / rate, 2)})
        print(f"  {streams} streams: {rate:,.0f} characters/s, {rows[-1]['us_per_step']} us a step", flush=True)
    return rows


def peers(version: Version) -> list[dict[str, Any]]:
    """PyTorch's speeds, or nothing where it is not installed."""
    try:
        from benchmarks.peers.torch_cuda import TorchCuda
    except ModuleNotFoundError:
        print("  PyTorch is not installed")
        return []
    config = version.config
    peer, rows = TorchCuda(len(config.vocabulary), config.embedding, config.units), []
    for streams in PEER_STREAMS:
        for way, rate in peer.rates(streams):
            rows.append({"streams": streams, "way": way, "characters_per_second": round(rate)})
            print(f"  {streams} streams, nn.GRU, {way}: {rate:,.0f} characters/s", flush=True)
    return rows


def served(flags: Sequence[str]) -> list[dict[str, Any]]:
    """Characters/s of streams from the whole service, over HTTP. Raises ServerFailed."""
    rows = []
    with running("service", flags, "/readyz") as server:
        for streams, characters in SERVED.items():
            bodies = [{"start_string": START, "num_generate": characters, "seed": seed, "stream": True} for seed in range(streams)]
            start = time.perf_counter()
            timelines = asyncio.run(read_all(Address(server.port, "/generate"), bodies, 60))
            rate = streams * characters / (time.perf_counter() - start)
            rows.append({"streams": streams, "characters_per_second": round(rate), "whole": all(one.whole for one in timelines)})
            print(f"  {streams} streams over HTTP: {rate:,.0f} characters/s", flush=True)
    return rows


def measure(version: Version, device: Gpu, flags: Sequence[str], *, torch: bool, service: bool) -> dict[str, Any]:
    """All parts. A part that fails is reported as such, and the others follow."""
    report: dict[str, Any] = {"device": device.name, "multiprocessors": device.processors}
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "check": lambda: check(version, device),
        "speeds": lambda: speeds(version, device),
        "peers": lambda: peers(version) if torch else [],
        "served": lambda: served(flags) if service else [],
    }
    for name, part in parts.items():
        print(f"{name}:", flush=True)
        try:
            report[name] = part()
        except (CudaError, ServerFailed, ImportError, RuntimeError) as error:
            report[name], report[f"{name}_failed"] = [], f"{type(error).__name__}: {error}"
            print(f"  failed: {report[f'{name}_failed']}", flush=True)
    report["equal"] = bool(report["check"]) and all(row["equal"] for row in report["check"])
    return report


def summary(report: dict[str, Any]) -> str:
    """The table for docs/benchmarks.md."""

    def of(part: str, streams: int, way: str | None = None) -> float | None:
        found = [row for row in report[part] if row["streams"] == streams and (way is None or row["way"] == way)]
        return found[0]["characters_per_second"] if found else None

    rows = [
        [str(n), of("speeds", n), of("peers", n, "CUDA graphs"), of("peers", n, "a call a step"), of("served", n)] for n in STREAMS
    ]
    bits = "all bits equal" if report["equal"] else "BITS DIFFER"
    head = ["streams", "cuda", "nn.GRU, CUDA graphs", "nn.GRU, a call a step", "over HTTP"]
    return f"{report['device']}: {bits}. Characters a second:\n\n{table(head, rows)}"


def main(arguments: Sequence[str] | None = None, device: Gpu | None = None) -> int:
    """device: stands in for the GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="only compile, for sm_80 and sm_90; needs no GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.add_argument("--no-torch", action="store_true", help="leave out PyTorch")
    parser.add_argument("--no-service", action="store_true", help="leave out the service over HTTP")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.compile:
            rows = compile_all(shipped())
            report: dict[str, Any] = {"compiled": rows}
            good = all(row["spills"] < MAX_SPILLS for row in rows)
            shown = table(
                ["kernel", "registers", "spills, bytes", "shared memory, bytes"], [list(row.values())[:4] for row in rows]
            )
        else:
            gpu = device or open_gpu()
            print(f"{gpu.name}, {gpu.processors} multiprocessors", flush=True)
            report = measure(shipped(), gpu, ["--backend", "cuda"], torch=not chosen.no_torch, service=not chosen.no_service)
            good, shown = report["equal"], summary(report)
    except CudaError as error:
        print(error, file=sys.stderr)
        return 1
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{shown}")
    return 0 if good else 1


if __name__ == "__main__":
    faulthandler.dump_traceback_later(LIMIT, exit=True)  # a kernel that waits forever ends here
    sys.exit(main())
