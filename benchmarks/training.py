"""python -m benchmarks.training: characters per second of training on the CPU, side by side: Keras, PyTorch, Folio's trainer.

All train the reference's network on the reference's text, in batches of 64 x 100 characters. They take turns, and the median over
the rounds counts: a machine that has other things to do has them for all. So only ratios within a run say something.
"""

import argparse
import math
import sys
from collections import defaultdict
from functools import partial
from statistics import median
from typing import Any

from benchmarks.apart import Failed, opened
from benchmarks.machine import describe
from benchmarks.reference import WARM_UP, Cell, Measured
from benchmarks.table import ratio, show
from benchmarks.trainers import SYSTEMS, SystemProcess

VOCABULARY = 65  # characters of the reference's text
MOST_LOSS = math.log(VOCABULARY)  # nats per character: that of one who holds all characters for equally likely
SETTLED = 10  # batches; about the fifth the recipe's loss leaps, to 9 nats and more, whoever trains


def main() -> int:
    """Measures and prints; 1 when a system fails."""
    options = _options()
    machine = describe()
    try:
        turns, losses = measured(options.systems, options.cell, options.rounds, options.batches, emulate_bf16=options.emulate_bf16)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    rows = compared(turns, losses, options.cell)
    about = f"characters/s, median of {options.rounds} rounds of {options.batches} batches; from lowest to highest in percent of it"
    head = ["system", "characters/s", "spread %", "x keras", "x torch", "loss", "% of a step"]
    show(rows, machine, head, about, as_json=options.json)
    for row in rows:
        if row["gflops"] and not options.json:
            print(f"\n{row['system']}, GFLOP/s: " + ", ".join(f"{shapes} {rate:.1f}" for shapes, rate in row["gflops"].items()))
    return 0


def measured(
    systems: list[str], cell: Cell, rounds: int, batches: int, *, emulate_bf16: bool
) -> tuple[dict[str, list[Measured]], dict[str, float]]:
    """(Each system's turns, the loss at the end of each that trains). Says on stderr which systems are left out.

    Raises Failed for one that does not learn.
    """
    turns = defaultdict[str, list[Measured]](list)
    losses: dict[str, float] = {}
    with opened(systems, partial(SystemProcess, cell=cell, emulate_bf16=emulate_bf16)) as (processes, missing):
        print("\n".join(missing), end="\n" if missing else "", file=sys.stderr)
        for _ in range(rounds):
            for process in processes:
                turns[process.name].append(process.measure(batches))
        for process in processes:
            loss = turns[process.name][-1].loss
            if loss is None:
                continue
            for _ in range(WARM_UP + rounds * batches, SETTLED):
                loss = process.measure(1).loss
            if loss is None or not loss < MOST_LOSS:  # which no NaN is
                raise Failed(
                    f"{process.name} does not learn: a loss of {loss} nats per character, where {MOST_LOSS:.2f} is the most"
                )
            losses[process.name] = loss
    return turns, losses


def compared(turns: dict[str, list[Measured]], losses: dict[str, float], cell: Cell) -> list[dict[str, Any]]:
    """A row for each system."""
    rates = {name: [turn.characters_per_second for turn in of_system] for name, of_system in turns.items()}
    medians = {name: median(values) for name, values in rates.items()}
    return [
        {
            "system": name if cell == "gru" or name.startswith("input") else f"{name}-{cell}",
            "characters_per_second": round(medians[name], 1),
            "spread_percent": round(100 * (max(values) - min(values)) / medians[name], 1),
            "ratio_to_keras": None if name.startswith("input") else ratio(medians[name], medians.get("keras")),
            "ratio_to_torch": None if name.startswith("input") else ratio(medians[name], medians.get("torch")),
            "loss": losses.get(name),
            "percent_of_step": _percent(medians.get("folio-f32"), medians[name]) if name.startswith("input") else None,
            "gflops": {shapes: round(median(turn.gflops[shapes] for turn in turns[name]), 1) for shapes in turns[name][0].gflops},
        }
        for name, values in rates.items()
    ]


def _percent(step: float | None, part: float) -> float | None:
    """The share of a step's time, both given in characters/s."""
    return round(100 * step / part, 2) if step else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.partition(": ")[2])
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    parser.add_argument("--cell", choices=["gru", "lstm"], default="gru", help="of the network")
    parser.add_argument("--batches", type=int, default=2, metavar="N", help="that each trains on in a round")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each is measured")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME", help=", ".join(SYSTEMS))
    parser.add_argument("--emulate-bf16", action="store_true", help="run the bf16 systems on a CPU without bfloat16 too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
