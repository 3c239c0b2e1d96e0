"""Whether a text matches a regular expression, and some texts that do."""

import re
import warnings
from collections.abc import Iterator
from functools import lru_cache
from random import Random

from service.generation.constraints import charset
from service.generation.constraints.parsing import Parser, python_dialect, shown
from service.generation.constraints.tree import Alternation, Characters, Concatenation, Node, Repetition
from service.generation.constraints.unsupported import UnsupportedConstraint


def searches(regex: str, text: str) -> bool:
    """Whether the expression matches somewhere in the text. Raises UnsupportedConstraint for what `Parser` refuses.

    Some pairs of an expression and a text take exponential time. They end with the process that compiles constraints.
    """
    return compiled(regex).search(text) is not None


@lru_cache(maxsize=64)
def compiled(regex: str) -> re.Pattern[str]:
    Parser(regex, lenient=True).parse()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in Parser
            return re.compile(python_dialect(regex), re.ASCII)
    except (re.error, ValueError) as error:  # such as a lookbehind of several widths
        raise UnsupportedConstraint(f"this regular expression is not supported: {error} in {shown(regex)}") from None


def samples(node: Node, count: int) -> Iterator[str]:
    """Different texts of a tree, found by so many trials. They are the same ones each time."""
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
