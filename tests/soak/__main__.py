"""python -m tests.soak: what the service does when clients, volumes and clocks misbehave. Linux only. See README.md."""

import argparse
import asyncio
import json
import sys
import traceback
from collections.abc import Awaitable, Callable

from benchmarks.machine import describe
from service.server import allow_many_connections
from tests.soak.client_faults import clients_vanish, readers_stall, requests_dribble, soak
from tests.soak.clock_faults import clocks_jump
from tests.soak.report import Report
from tests.soak.version_faults import (
    publishers_die,
    two_serve,
    versions_swap,
    volumes_fail,
)

LIMIT = 1800  # seconds that a scenario may take, besides --minutes
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


def main() -> int:
    """Returns 1 if a promise was broken."""
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
            # Whatever it is, a promise was broken; the other scenarios continue.
            traceback.print_exc()
            report.broken.append(f"{name} did not finish: {error!r}"[:1000])
        if not options.json:
            print(report, end="\n\n", flush=True)
    if options.json:
        print(json.dumps([report.row() | {"machine": machine} for report in reports], indent=1))
    return 1 if any(report.broken for report in reports) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition(": ")[2])
    every = ", ".join(SCENARIOS)
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], metavar="SCENARIO", help=f"{every}; without any all")
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    parser.add_argument("--minutes", type=float, default=10, help="duration of the soak")
    parser.add_argument("--share", type=float, default=1, help="fraction of the clients, versions, kills and cuts")
    options = parser.parse_args()
    options.of = lambda count: max(1, round(options.share * count))
    return options


if __name__ == "__main__":
    sys.exit(main())
