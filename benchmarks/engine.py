"""python -m benchmarks.engine: characters per second of engines that generate, side by side, without HTTP.

All run the shipped model, one after the other in each round, and the median over the rounds counts: a machine that has other
things to do has them for all. So only ratios within a run say something.
"""

import argparse
import sys
from collections import defaultdict
from functools import partial
from statistics import median
from typing import Any

from benchmarks.apart import Failed, opened
from benchmarks.machine import describe
from benchmarks.systems import BY_NAME, SINGLE, SYSTEMS, SystemProcess
from benchmarks.table import ratio, show

CHUNK = 16  # steps a call of Folio's backends, whatever they take


def main() -> int:
    """Measures and prints; 1 when a system fails."""
    options = _options()
    machine = describe()
    try:
        rates = measure(options.systems, options.streams, options.rounds, options.seconds)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    rows = compared(rates)
    about = f"characters/s, the median of {options.rounds} rounds of {options.seconds:g} s; from lowest to highest in percent of it"
    head = ["system", "streams", "characters/s", "spread %", "x tutorial", "x torch"]
    show(rows, machine, head, about, as_json=options.json)
    return 0


def measure(systems: list[str], streams: list[int], rounds: int, seconds: float) -> dict[tuple[str, int], list[float]]:
    """Characters/s in each round, by system and number of streams. Says on stderr which systems are left out."""
    rates = defaultdict[tuple[str, int], list[float]](list)
    with opened(systems, partial(SystemProcess, chunk=CHUNK, call_seconds=3600)) as (processes, missing):
        print("\n".join(missing), end="\n" if missing else "", file=sys.stderr)
        for _ in range(rounds):
            for count in streams:
                for process in processes:
                    if count == 1 or process.name not in SINGLE:
                        rates[process.name, count].append(process.rate(count, seconds))
    return rates


def compared(rates: dict[tuple[str, int], list[float]]) -> list[dict[str, Any]]:
    """A row for each system and number of streams; the tutorial's loop has one stream, whatever it is compared with."""
    medians = {key: median(values) for key, values in rates.items()}
    return [
        {
            "system": system,
            "streams": streams,
            "characters_per_second": round(medians[system, streams], 1),
            "spread_percent": round(100 * (max(values) - min(values)) / medians[system, streams], 1),
            "ratio_to_tutorial": ratio(medians[system, streams], medians.get(("tutorial", 1))),
            "ratio_to_torch": ratio(medians[system, streams], medians.get(("torch", streams))),
        }
        for (system, streams), values in rates.items()
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.partition(": ")[2])
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64, 256], metavar="N", help="how many at the same time")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS + BY_NAME, default=list(SYSTEMS), metavar="NAME", help=", ".join(SYSTEMS + BY_NAME)
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
