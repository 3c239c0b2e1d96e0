"""python -m benchmarks.students: characters a second of a student's training, its teachers' writing included, beside `best`.

Both are set up and fed as `trainer.loop` does it, in one process, and take turns. All teachers are the included model, because what
they know does not matter here.
"""

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import describe
from benchmarks.reference import WARM_UP, text
from benchmarks.table import show
from trainer import artifact
from trainer.config import TrainingConfig
from trainer.importing import configure_tensorflow

INCLUDED = Path(__file__).parents[1] / "models" / "shakespeare"


def main() -> int:
    """Measures and prints."""
    options = _options()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    rows = measure(options.teachers, options.at_a_time, options.rounds, options.batches)
    about = f"characters/s, median of {options.rounds} rounds of {options.batches} batches; from lowest to highest in percent of it"
    show(rows, describe(), ["recipe", "characters/s", "spread %", "x best"], about, as_json=options.json)
    return 0


def measure(teachers: int, at_a_time: int, rounds: int, batches: int) -> list[dict[str, Any]]:
    """A row for each recipe."""
    rates: dict[str, list[float]] = {"best": [], "student": []}
    with tempfile.TemporaryDirectory() as folder:
        student = {"teacher": [artifact.find(INCLUDED)] * teachers, "teachers_at_a_time": at_a_time}
        turns = {"best": _train(folder, batches, {}), "student": _train(folder, batches, student)}
        for _ in range(rounds):
            for recipe, turn in turns.items():
                rates[recipe].append(next(turn))
    medians = {recipe: median(found) for recipe, found in rates.items()}
    return [
        {
            "recipe": recipe,
            "characters_per_second": round(medians[recipe], 1),
            "spread_percent": round(100 * (max(found) - min(found)) / medians[recipe], 1),
            "ratio_to_best": round(medians[recipe] / medians["best"], 2),
        }
        for recipe, found in rates.items()
    ]


def _train(folder: str, batches: int, options: dict[str, Any]) -> Iterator[float]:
    """Trains on the next `batches` in each turn and yields characters per second."""
    config = TrainingConfig(models_dir=Path(folder), name=str(len(options)), **options)
    config.work_dir.mkdir(parents=True)
    configure_tensorflow(config.batch_size, config.precision)
    from trainer.loop import Run

    with redirect_stdout(io.StringIO()):  # without its progress line
        run = Run(config, text(), teachers=[artifact.read(path) for path in config.teacher])
    epoch = iter(run.batches.epoch(1))
    for _ in range(WARM_UP):
        run.step(*next(epoch))
    while True:
        run.step(*next(epoch))  # the teachers of the first batch wrote while the other recipe trained
        start = time.perf_counter()
        for _ in range(batches):
            run.step(*next(epoch))
        yield batches * config.batch_size * config.seq_length / (time.perf_counter() - start)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.students", description=__doc__.partition(": ")[2])
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    parser.add_argument("--teachers", type=int, default=4, metavar="N", help="in all")
    parser.add_argument("--at-a-time", type=int, default=2, metavar="N", help="teachers of a passage")
    parser.add_argument("--batches", type=int, default=8, metavar="N", help="that each trains on in a round")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is measured")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
