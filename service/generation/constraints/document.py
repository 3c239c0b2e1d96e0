"""A schema as a whole: finds what its references name, and bounds the work that it causes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote

from service.generation.constraints.pattern import MAX_POSITIONS, Fatal, TooMuchWork, UnsupportedConstraint

MAX_WORK = 20_000  # schemas visited; a schema counts once for each place that uses it

T = TypeVar("T")
Json = Any
Schema = Any  # a dict or a bool, until it is looked at


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


@dataclass(frozen=True)
class Bounds:
    """Default limits for what a schema leaves open. Numbers add to the least that the schema asks for."""

    characters: int  # of a string
    items: int  # of an array
    members: int  # of an object that names none
    recursion: int  # references to a schema within itself
    optional: int  # members of an object that it need not have
    positions: int  # of the pattern in all


BOUNDS = (  # from wide to tight. The first that gives a small enough pattern is used
    Bounds(40, 3, 3, 2, 1_000, 5_000),
    Bounds(20, 1, 2, 2, 1_000, 5_000),
    Bounds(8, 1, 1, 1, 1_000, MAX_POSITIONS),
    Bounds(8, 1, 1, 1, 3, MAX_POSITIONS),
    Bounds(8, 0, 1, 1, 0, MAX_POSITIONS),
)


class Document:
    """The outermost schema. Its parts are dicts and bools within it."""

    def __init__(self, root: Schema) -> None:
        self.root = root
        self.work = 0
        self._anchors: dict[str, Schema] = {}
        for part in subschemas(root):
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(part.get(keyword), str):
                    self._anchors[part[keyword]] = part
        self.base = root.get("$id", "") if isinstance(root, dict) else ""
        self.embedded = sum(isinstance(part.get("$id"), str) for part in subschemas(root)) > bool(self.base)

    def spend(self, where: str) -> None:
        """Counts one unit of work. Raises TooMuchWork when there was too much."""
        self.work += 1
        if self.work > MAX_WORK:
            raise TooMuchWork(f"{at(where)}the schema is too large or refers to itself too often")

    def resolve(self, reference: str, where: str) -> Schema:
        """The schema that a `$ref` names. Raises Fatal where it names none, and UnsupportedConstraint for another document's."""
        if self.embedded:
            raise UnsupportedConstraint(f"{at(where)}$ref beside an $id below the outermost schema is not supported")
        address, _, fragment = reference.partition("#")
        if address and address != str(self.base).partition("#")[0]:
            raise UnsupportedConstraint(f"{at(where)}the schema of $ref {reference!r} is not in this document")
        fragment = unquote(fragment)
        found = self._pointed(fragment) if not fragment or fragment.startswith("/") else self._anchors.get(fragment)
        if not isinstance(found, dict | bool):
            raise Fatal(f"{at(where)}$ref {reference!r} names no schema")
        return found

    def _pointed(self, pointer: str) -> Json:
        found = self.root
        for step in pointer.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict):
                found = found.get(name)
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                return None
        return found


def subschemas(root: Json) -> Iterator[dict[str, Json]]:
    """Every dict within a schema, be it a schema or not."""
    waiting = [root]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def attempts(ways: Iterable[Callable[[], T]]) -> tuple[list[T], list[UnsupportedConstraint]]:
    """What the ways give, and the errors of those that give nothing."""
    found, errors = [], []
    for way in ways:
        try:
            found.append(way())
        except Fatal:
            raise
        except UnsupportedConstraint as error:
            errors.append(error)
    return found, errors


def at(where: str) -> str:
    """How an error message begins."""
    return f"{where}: " if where else ""
