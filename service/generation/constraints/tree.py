"""A pattern: what a text must be, as a tree of four kinds of node. The functions below build them and keep them simple.

`size` is the number of characters with every repeat written out, which is what an automaton is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from service.generation.constraints.charset import Ranges, of


@dataclass(frozen=True)
class Characters:
    """One character of a set. The empty set matches nothing."""

    ranges: Ranges
    size = 1


@dataclass(frozen=True)
class Concatenation:
    """All parts, one after another."""

    parts: tuple[Node, ...]

    @cached_property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


@dataclass(frozen=True)
class Alternation:
    """One of two or more options."""

    options: tuple[Node, ...]

    @cached_property
    def size(self) -> int:
        return sum(option.size for option in self.options)


@dataclass(frozen=True)
class Repetition:
    """The part `least` to `most` times. `most` is None where there is no limit."""

    part: Node
    least: int
    most: int | None

    @cached_property
    def size(self) -> int:
        return self.part.size * (self.most or max(self.least, 1))


Node = Characters | Concatenation | Alternation | Repetition

NOTHING = Characters(())
EMPTY = Concatenation(())


def concatenation(parts: Iterable[Node]) -> Node:
    """The parts one after another, without needless nesting."""
    flat: list[Node] = []
    for part in parts:
        if part == NOTHING:
            return NOTHING
        flat += part.parts if isinstance(part, Concatenation) else (part,)
    return flat[0] if len(flat) == 1 else Concatenation(tuple(flat))


def alternation(options: Iterable[Node]) -> Node:
    """One of the options. Those that match nothing, and repeated ones, are dropped."""
    kept = list(dict.fromkeys(option for option in options if option != NOTHING))
    if len(kept) < 2:
        return kept[0] if kept else NOTHING
    return Alternation(tuple(kept))


def repetition(part: Node, least: int, most: int | None) -> Node:
    """The part, `least` to `most` times."""
    if part == NOTHING and least:
        return NOTHING
    if part in (NOTHING, EMPTY) or most == 0:
        return EMPTY
    return part if least == most == 1 else Repetition(part, least, most)


def rebuilt(node: Node, change: Callable[[Node], Node]) -> Node:
    """The node with its parts changed."""
    match node:
        case Concatenation(parts):
            return concatenation(map(change, parts))
        case Alternation(options):
            return alternation(map(change, options))
        case Repetition(part, least, most):
            return repetition(change(part), least, most)
    return node


def literal(text: str) -> Node:
    """Exactly this text."""
    return concatenation(map(character, text))


@lru_cache(maxsize=4096)
def character(one: str) -> Node:
    return Characters(of(one))
