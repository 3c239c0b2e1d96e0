"""Patterns of regular expressions, of choices and of JSON strings."""

from collections.abc import Iterable
from functools import lru_cache

from service.generation.constraints import charset
from service.generation.constraints.charset import Ranges
from service.generation.constraints.parsing import Parser, shown
from service.generation.constraints.tree import (
    NOTHING,
    Characters,
    Node,
    alternation,
    concatenation,
    literal,
    rebuilt,
)
from service.generation.constraints.unsupported import TooLarge, UnsupportedConstraint

MAX_POSITIONS = 15_000  # the largest size of a pattern
SHORT_ESCAPES = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
ESCAPED_IN_JSON = charset.union(charset.CONTROLS, charset.LINE_SEPARATORS, charset.SURROGATES, charset.of('"\\'))
PLAIN_IN_JSON = charset.complement(ESCAPED_IN_JSON)
QUOTE = literal('"')


def regex_pattern(regex: str) -> Node:
    """The pattern of a regular expression. Raises UnsupportedConstraint."""
    tree = Parser(regex).parse()
    if tree == NOTHING:
        raise UnsupportedConstraint(f"no text matches the regular expression {shown(regex)}")
    return checked(tree)


def choices_pattern(choices: Iterable[str]) -> Node:
    """The pattern of exactly these texts. Raises UnsupportedConstraint where there are none."""
    texts = list(dict.fromkeys(choices))
    if not texts:
        raise UnsupportedConstraint("there are no choices")
    if any(charset.intersection(charset.of(text), charset.SURROGATES) for text in texts):
        raise UnsupportedConstraint("a choice holds half a character (a lone surrogate)")
    return checked(alternation(literal(text) for text in texts))


def checked(pattern: Node, most: int = MAX_POSITIONS) -> Node:
    """The pattern, unless it is too large. Raises TooLarge."""
    if pattern.size > most:
        raise TooLarge(f"the constraint is too large: {pattern.size:,} characters with repeats written out, of at most {most:,}")
    return pattern


def json_string_pattern(content: Node) -> Node:
    """The pattern of JSON strings, quotes included, whose content matches."""
    return concatenation([QUOTE, in_json(content), QUOTE])


def in_json(node: Node) -> Node:
    return json_character(node.ranges) if isinstance(node, Characters) else rebuilt(node, in_json)


@lru_cache(maxsize=4096)
def json_character(ranges: Ranges) -> Node:
    """One character of the set as JSON text. Characters that need an escape are kept only where the set has no others."""
    plain = charset.intersection(ranges, PLAIN_IN_JSON)
    if plain:
        return Characters(plain)
    return alternation(literal(json_escape(code)) for first, last in ranges for code in range(first, last + 1))


def json_escape(code: int) -> str:
    """The escape of a code point in JSON text: beyond 16 bits those of two surrogates."""
    units = chr(code).encode("utf-16-be", "surrogatepass").hex()
    return SHORT_ESCAPES.get(code) or "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
