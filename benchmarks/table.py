"""Rows as text in columns, or as JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def show(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, str], head: Sequence[str], about: str, *, as_json: bool) -> None:
    """Prints the rows, each with the machine, as JSON; or the machine, and under `about` a table of the first columns."""
    if as_json:
        print(json.dumps([{**row, "machine": machine} for row in rows], indent=1))
        return
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), end="\n\n")
    print(about, end="\n\n")
    print(table(head, [list(row.values())[: len(head)] for row in rows]))


def ratio(value: float, other: float | None) -> float | None:
    """None where there is nothing to compare with."""
    return round(value / other, 3) if other else None


def table(head: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> str:
    """The first column to the left, the others, numbers, to the right; None shows as a dash."""
    cells = [list(head), *([_shown(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _shown(value: str | float | None) -> str:
    """Three digits at least, no more behind the point than those."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return (
        f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    )
