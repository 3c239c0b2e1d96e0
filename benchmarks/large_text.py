"""python -m benchmarks.large_text: what texts of 1 MB to 1 GB cost Folio's trainer, in time and memory.

Against itself: for each size a text is written, then read and trained on for some batches, by a small network so that what feeds it
shows. Neither the time a character nor the memory may grow with the text. Memory is what the process has of its own (RssAnon of
/proc/self/status, so on Linux only): pages of the text's mapped file, which the system takes back when it needs them, don't count.
Each size and order of examples has a process of its own.
"""

import argparse
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from benchmarks.machine import describe
from benchmarks.table import table
from benchmarks.trainers import Folio, examples_of
from trainer import corpus
from trainer.batches import Batches
from trainer.config import TrainingConfig

Order = Literal["streams", "windows"]

STATUS = Path("/proc/self/status")
SAMPLE_EVERY = 0.005  # seconds between looks at the memory
MEGABYTE = 1_000_000


def main() -> int:
    """Measures and prints; 1 on a system that does not tell a process's own memory."""
    options = _options()
    if not STATUS.exists():
        print("this benchmark needs Linux's /proc", file=sys.stderr)
        return 1
    machine = describe()
    rows = []
    for megabytes in options.megabytes:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "text"
            write(path, megabytes * MEGABYTE)
            for order in ("streams", "windows"):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    rows.append(
                        {"megabytes": megabytes, **process.submit(cost, path, order, options.rounds, options.batches).result()}
                    )
    if options.json:
        print(json.dumps([row | {"machine": machine} for row in rows], indent=1))
        return 0
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), end="\n\n")
    head = ["text, MB", "examples", "s/MB read", "first batch s", "last s", "characters/s", "MB then", "trained"]
    print(table(head, [[f"{row['megabytes']:,}", *list(row.values())[1:]] for row in rows]))
    return 0


def write(path: Path, size: int) -> None:
    """A text of `size` bytes: the lines of the reference's text, shuffled anew each time they run out."""
    lines = np.array(corpus.SHAKESPEARE.read_text().splitlines(keepends=True), dtype=object)
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        while left := size - file.tell():
            file.write("".join(generator.permutation(lines)).encode()[:left])


def cost(path: Path, order: Order, rounds: int, batches: int) -> dict[str, Any]:
    """What reading the text costs, beginning an epoch, and training; needs a process that has done nothing yet."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with TemporaryDirectory() as folder:
        with sampled_memory() as while_reading:
            start = time.perf_counter()
            text = corpus.read([path], Path(folder))
            seconds = time.perf_counter() - start
        config = TrainingConfig.model_validate({"recipe": "tutorial", "examples": order, "units": 128})
        with sampled_memory() as while_training:
            folio = Folio(config, text)
            examples = examples_of(config, text)
            begun, resumed = (seconds_to_batch(examples, first) for first in (0, len(examples) - 1))
            rates = [folio.measure(batches).characters_per_second for _ in range(rounds)]
    return {
        "examples": order,
        "read_seconds_per_megabyte": round(seconds / path.stat().st_size * MEGABYTE, 4),
        "first_batch_seconds": round(begun, 3),
        "last_batch_seconds": round(resumed, 3),
        "characters_per_second": round(median(rates), 1),
        "read_peak_anonymous_mb": round(max(while_reading), 1),
        "trained_peak_anonymous_mb": round(max(while_training), 1),
    }


def seconds_to_batch(examples: Batches, first: int) -> float:
    """Until the epoch's batch `first` is there, where an epoch is begun with it, as a run is that is gone on with."""
    start = time.perf_counter()
    next(iter(examples.epoch(1, first)))
    return time.perf_counter() - start


@contextmanager
def sampled_memory() -> Iterator[list[float]]:
    """This process's anonymous memory in MB: now, then every SAMPLE_EVERY seconds as long as the context is open."""
    samples, done = [_anonymous_megabytes()], threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_EVERY):
            samples.append(_anonymous_megabytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def _anonymous_megabytes() -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024 / MEGABYTE


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_text", description=__doc__.partition(": ")[2])
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 10, 100, 1000], metavar="N", help="sizes of the texts")
    parser.add_argument("--batches", type=int, default=30, metavar="N", help="of 64 x 100 characters, trained on in a round")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of which the median counts")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
