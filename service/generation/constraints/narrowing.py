"""Makes a tree less ambiguous, so that its automaton stays small.

`[^@]{1,20}@.{1,20}foo` needs a state for each set of places at which a match may be. So a repeat gives up the characters that what
follows it may begin with, or else its freedom to end at several places. What remains matches a part of the same texts.
"""

from service.generation.constraints import charset
from service.generation.constraints.charset import Ranges
from service.generation.constraints.fitting import lengths
from service.generation.constraints.tree import (
    Alternation,
    Characters,
    Concatenation,
    Node,
    Repetition,
    alternation,
    concatenation,
    repetition,
)

SOME = 4  # repeats of a part that loses the freedom to end at several places


def narrowed(node: Node, following: Ranges = ()) -> Node:
    """The tree without what makes it ambiguous. `following`: characters that may come next after it."""
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
        case Repetition(part, _, _):
            return first(part)
    return ()
