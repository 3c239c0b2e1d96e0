"""Where in the value, and behind which references, a schema is used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """`path` as an error message shows it, such as `properties.age`; `references` followed so far; containers around the value."""

    path: str = ""
    references: tuple[str, ...] = ()
    depth: int = 0

    def inside(self, step: str, references: Iterable[str]) -> Place:
        """One container further in."""
        path = f"{self.path}.{step}" if self.path else step
        return Place(path, self.references + tuple(references), self.depth + 1)

    def named(self, step: str) -> str:
        """The path of a keyword here."""
        return f"{self.path}.{step}" if self.path else step
