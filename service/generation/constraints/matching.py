"""Whether a text matches a regular expression, in polynomial time, and some texts that do.

Python's own `re` takes exponential time on some pairs of an expression and a text, and a request must not choose such a pair.
"""

from collections.abc import Iterator
from functools import lru_cache
from random import Random

from service.generation.constraints import charset
from service.generation.constraints.parsing import START, Parser, limited
from service.generation.constraints.tree import (
    EMPTY,
    Alternation,
    Characters,
    Concatenation,
    Lookaround,
    Node,
    Repetition,
    rebuilt,
)
from service.generation.constraints.unsupported import TooMuchWork, UnsupportedConstraint

MAX_TEXT = 1000
MAX_STEPS = 150_000


@lru_cache(maxsize=64)
def exact_tree(regex: str) -> Node:
    """The expression with its anchors and lookaround."""
    return Parser(limited(regex), exact=True).parse()


class Effort:
    """Counts the steps of all comparisons of one request, and keeps their results."""

    def __init__(self) -> None:
        self.steps = 0
        self.found: dict[tuple[str, str], bool] = {}

    def spend(self, steps: int) -> None:
        """Raises TooMuchWork when there were too many."""
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise TooMuchWork("its regular expressions take too long to be compared with texts")


def searches(regex: str, text: str, effort: Effort) -> bool:
    """Whether the expression matches somewhere in the text. Raises UnsupportedConstraint where that takes too long to find out."""
    if len(text) > MAX_TEXT:
        raise UnsupportedConstraint(f"a text of {len(text)} characters is too long to be compared with a regular expression")
    if (regex, text) not in effort.found:
        matcher = Matcher(text, effort)
        tree = exact_tree(regex)
        anchored = isinstance(tree, Concatenation) and tree.parts[:1] == (START,)
        effort.found[regex, text] = any(matcher.ends(tree, start) for start in range(1 if anchored else len(text) + 1))
    return effort.found[regex, text]


class Matcher:
    """Finds matches in one text. What is found at a position is kept, so that no expression takes exponential time."""

    def __init__(self, text: str, effort: Effort) -> None:
        self.text = text
        self.effort = effort
        self._found: dict[tuple[int, int], frozenset[int]] = {}

    def ends(self, node: Node, start: int) -> frozenset[int]:
        """All positions at which a match that begins at `start` may end."""
        key = id(node), start
        if key not in self._found:
            self.effort.spend(1)
            self._found[key] = self._find(node, start)
        return self._found[key]

    def _find(self, node: Node, start: int) -> frozenset[int]:
        match node:
            case Characters(ranges):
                inside = start < len(self.text) and any(low <= ord(self.text[start]) <= high for low, high in ranges)
                return frozenset([start + 1] if inside else [])
            case Concatenation(parts):
                found = frozenset([start])
                for part in parts:
                    self.effort.spend(len(found))
                    found = self._after(part, found)
                return found
            case Alternation(options):
                return frozenset(end for option in options for end in self.ends(option, start))
            case Repetition(part, least, most):
                return self._repeat(part, least, most, start)
            case Lookaround(part, ahead, negative):
                return frozenset([start] if self._holds(part, ahead, start) != negative else [])

    def _after(self, part: Node, starts: frozenset[int]) -> frozenset[int]:
        return frozenset(end for start in starts for end in self.ends(part, start))

    def _repeat(self, part: Node, least: int, most: int | None, start: int) -> frozenset[int]:
        found = frozenset([start])
        for _ in range(min(least, len(self.text) + 1)):
            self.effort.spend(len(found))
            following = self._after(part, found)
            if following == found:
                break
            found = following
        reached, times = found, least
        while found and (most is None or times < most):
            self.effort.spend(len(found))
            found = self._after(part, found) - reached
            reached, times = reached | found, times + 1
        return reached

    def _holds(self, part: Node, ahead: bool, position: int) -> bool:
        if ahead:
            return bool(self.ends(part, position))
        return any(position in self.ends(part, start) for start in range(position, -1, -1))


def without_lookaround(node: Node) -> Node:
    """The tree with all lookaround taken as fulfilled."""
    return EMPTY if isinstance(node, Lookaround) else rebuilt(node, without_lookaround)


def samples(node: Node, count: int) -> Iterator[str]:
    """Different texts of a tree without lookaround, found by so many trials. They are the same ones each time."""
    random, known = Random(0), set()
    for _ in range(count):
        text = sample(node, random)
        if text not in known:
            known.add(text)
            yield text


def sample(node: Node, random: Random) -> str:
    match node:
        case Characters(ranges):
            at = random.randrange(charset.size(ranges))
            for first, last in ranges:
                if at <= last - first:
                    return chr(first + at)
                at -= last - first + 1
        case Concatenation(parts):
            return "".join(sample(part, random) for part in parts)
        case Alternation(options):
            return sample(random.choice(options), random)
        case Repetition(part, least, most):
            times = random.randint(least, least + 4 if most is None else min(most, least + 4))
            return "".join(sample(part, random) for _ in range(times))
    raise UnsupportedConstraint("a regular expression of which no text is found")
