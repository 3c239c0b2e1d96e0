"""A pattern, as a tree of four kinds of node, and changes of such trees. Functions build the nodes and keep them simple.

A text matches a pattern as a whole. `size` is the number of characters with every repeat written out: it bounds the automaton.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from service.generation.constraints import charset
from service.generation.constraints.charset import Ranges


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
UNLIMITED = 1 << 40  # stands for no limit where lengths are added and multiplied
SOME = 4  # repeats of a part that loses the freedom to end at several places


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
    kept = [option for option in options if option != NOTHING]
    if len(kept) > 1:
        kept = list(dict.fromkeys(kept))
    return Alternation(tuple(kept)) if len(kept) > 1 else kept[0] if kept else NOTHING


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
    return Characters(charset.of(one))


def lengths(node: Node) -> tuple[int, int]:
    """The fewest and the most characters of a text of this tree. UNLIMITED or more means no limit."""
    match node:
        case Characters():
            return 1, 1
        case Concatenation(parts):
            both = [lengths(part) for part in parts]
            return sum(least for least, _ in both), sum(most for _, most in both)
        case Alternation(options):
            both = [lengths(option) for option in options]
            return min(least for least, _ in both), max(most for _, most in both)
        case Repetition(part, least, most):
            shortest, longest = lengths(part)
            return shortest * least, min(longest * (UNLIMITED if most is None else most), UNLIMITED) if longest else 0


def bounded(node: Node, characters: int, groups: int) -> Node:
    """Every repeat without a limit ends `characters` (of one character) or `groups` (of anything else) after its least number."""
    node = rebuilt(node, lambda part: bounded(part, characters, groups))
    if isinstance(node, Repetition) and node.most is None:
        more = characters if isinstance(node.part, Characters) else groups
        return repetition(node.part, node.least, node.least + more)
    return node


def within(node: Node, allowed: Ranges, preferred: Ranges) -> Node:
    """Only characters of `allowed`. A set that holds more than ASCII is cut to `preferred`, where that leaves any."""
    if not isinstance(node, Characters):
        return rebuilt(node, lambda part: within(part, allowed, preferred))
    kept = charset.intersection(node.ranges, allowed)
    if charset.size(kept) > 128:
        kept = charset.intersection(kept, preferred) or charset.intersection(kept, ((32, 126),)) or kept
    return Characters(kept)


def fit(node: Node, shortest: int, longest: int) -> Node:
    """Texts of the tree that have `shortest` to `longest` characters: not all of them, and NOTHING where none is found."""
    least, most = lengths(node)
    if least > longest or most < shortest:
        return NOTHING
    if least >= shortest and most <= longest:
        return node
    match node:
        case Concatenation(parts):
            return fit_concatenation(parts, shortest, longest)
        case Alternation(options):
            return alternation(fit(option, shortest, longest) for option in options)
        case Repetition(part, fewest, limit):
            return fit_repetition(part, fewest, limit, shortest, longest)
    return NOTHING


def fit_concatenation(parts: Sequence[Node], shortest: int, longest: int) -> Node:
    """Each part in turn has the most freedom that the parts after it leave, so that the sum stays within the bounds."""
    both = [lengths(part) for part in parts]
    goals = [[least, least] for least, _ in both]
    missing = shortest - sum(least for least, _ in both)
    for goal, (least, most) in zip(goals, both, strict=True):  # raise the least lengths up to the shortest text
        more = max(min(most - least, missing), 0)
        goal[0] += more
        goal[1] += more
        missing -= more
    spare = longest - sum(goal[1] for goal in goals)
    for goal, (_, most) in zip(goals, both, strict=True):  # give what is left up to the longest text
        more = max(min(most - goal[1], spare), 0)
        goal[1] += more
        spare -= more
    return concatenation(fit(part, low, high) for part, (low, high) in zip(parts, goals, strict=True))


def fit_repetition(part: Node, fewest: int, limit: int | None, shortest: int, longest: int) -> Node:
    """Fewer or more repeats of the whole part, or else one number of repeats of a part that is fitted itself."""
    least, most = lengths(part)
    limit = longest // max(least, 1) if limit is None else limit
    if most == 0:
        return NOTHING
    low = fewest if shortest <= 0 else max(fewest, -(-shortest // least)) if least else limit + 1
    high = min(limit, longest // most)
    if low <= high:
        return repetition(part, low, high)
    for times in range(max(fewest, 1), min(limit, 64) + 1):
        fitted = fit(part, -(-shortest // times), longest // times)
        if fitted != NOTHING:
            return repetition(fitted, times, times)
    return NOTHING


def narrowed(node: Node, following: Ranges = ()) -> Node:
    """The tree without what makes it ambiguous, so that its automaton stays small. It matches a part of the same texts.

    `[^@]{1,20}@.{1,20}foo` needs a state for each set of places at which a match may be. So a repeat gives up the characters that
    what follows it may begin with, or else its freedom to end at several places. `following`: characters that may come next.
    """
    match node:
        case Concatenation(parts):
            done: list[Node] = []
            for part in reversed(parts):
                part = narrowed(part, following)
                following = charset.union(first(part), () if lengths(part)[0] else following)
                done.append(part)
            return concatenation(reversed(done))
        case Alternation(options):
            return alternation(narrowed(option, following) for option in options)
        case Repetition(part, least, most):
            inside = following if most == 1 else charset.union(first(part), following)
            return narrowed_repetition(narrowed(part, inside), least, most, following)
    return node


def narrowed_repetition(part: Node, least: int, most: int | None, following: Ranges) -> Node:
    if most is None or most - least < 2 or not charset.intersection(first(part), following):
        return repetition(part, least, most)
    if isinstance(part, Characters) and (others := charset.minus(part.ranges, following)):
        return repetition(Characters(others), least, most)
    times = max(least, min(most, SOME))
    return repetition(part, times, times)


def first(node: Node) -> Ranges:
    """The characters that a text of the tree may begin with."""
    match node:
        case Characters(ranges):
            return ranges
        case Concatenation(parts):
            found: Ranges = ()
            for part in parts:
                found = charset.union(found, first(part))
                if lengths(part)[0]:
                    break
            return found
        case Alternation(options):
            return charset.union(*(first(option) for option in options))
        case Repetition(part):
            return first(part)
