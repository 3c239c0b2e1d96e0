"""What a scenario found: figures, broken promises, and what was left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.client import Timeline
from benchmarks.table import table
from tests.soak.clients import gaps

FREE = "slots, queue and descriptors are free afterwards"
SAME = "the same request has the same answer as before"


@dataclass
class Report:
    """The figures of one scenario, and the promises that it found broken."""

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


def stream_figures(over: Sequence[Timeline]) -> dict[str, float]:
    """Counts and gaps of streams that have ended."""
    return {"streams": len(over), "failed": sum(not timeline.whole for timeline in over), **gaps(over)}
