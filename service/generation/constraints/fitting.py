"""Changes a tree into one whose texts are some of the same, with lengths within bounds."""

from collections.abc import Sequence

from service.generation.constraints import charset
from service.generation.constraints.charset import Ranges
from service.generation.constraints.tree import (
    NOTHING,
    Alternation,
    Characters,
    Concatenation,
    Node,
    Repetition,
    alternation,
    concatenation,
    rebuilt,
    repetition,
)

UNLIMITED = 1 << 40  # stands for no limit where lengths are added and multiplied


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
