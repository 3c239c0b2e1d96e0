"""Regular expressions and choices as patterns: regular expressions that Python and Rust's regex crate read alike.

A text matches a pattern as a whole. Compile `delimited(pattern)`, with START and END in the vocabulary: a text begins after START
and may end where END may follow. Without END, `a|ab` would never give "ab": Rust prefers the earlier option and stops at its match.
Without START, outlines-core takes exponential time and memory for patterns such as `19{9}[0-8]|19{8}[0-8][0-9]|...`: it also builds
the automaton that searches a text, where a match may begin anywhere.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from service.generation.constraints import charset
from service.generation.constraints.charset import Ranges
from service.generation.constraints.parsing import Parser, limited, shown
from service.generation.constraints.tree import (
    NOTHING,
    Alternation,
    Characters,
    Concatenation,
    Node,
    Repetition,
    alternation,
    literal,
)
from service.generation.constraints.unsupported import TooLarge, UnsupportedConstraint

__all__ = ["END", "START", "UnsupportedConstraint", "choices_pattern", "delimited", "json_string_pattern", "portable_pattern"]

START, END = charset.START, charset.END

MAX_PATTERN = 200_000  # characters
MAX_POSITIONS = 15_000  # characters once every repeat is written out, which is what an automaton is made of

TOKEN = re.compile(
    r"(?P<open>\(\?s?:)|(?P<close>\))|(?P<option>\|)|(?P<repeat>[?*+]|\{(?P<least>\d+)(?P<comma>,?)(?P<most>\d*)\})"
    r"|\\U.{8}|\\u.{4}|\\.|\[(?:\\.|[^\]\\])*\]|.",
    re.DOTALL,
)
SHORT_ESCAPES = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
ESCAPED_IN_JSON = charset.union(charset.CONTROLS, charset.LINE_SEPARATORS, charset.SURROGATES, charset.of('"\\'))
PLAIN_IN_JSON = charset.complement(ESCAPED_IN_JSON)


def portable_pattern(regex: str) -> str:
    """The pattern of a regular expression. Raises UnsupportedConstraint."""
    tree = Parser(limited(regex)).parse()
    if tree == NOTHING:
        raise UnsupportedConstraint(f"no text matches the regular expression {shown(regex)}")
    return checked(written(tree, charset.class_pattern))


def choices_pattern(choices: Iterable[str]) -> str:
    """The pattern of exactly these texts. Raises UnsupportedConstraint where there are none."""
    texts = list(dict.fromkeys(choices))
    if not texts:
        raise UnsupportedConstraint("there are no choices")
    if any(charset.intersection(charset.of(text), charset.SURROGATES) for text in texts):
        raise UnsupportedConstraint("a choice holds half a character (a lone surrogate)")
    tree = alternation(literal(text) for text in texts)
    return checked(written(tree, charset.class_pattern))


def delimited(pattern: str) -> str:
    """The pattern between START and END, which no pattern of this package matches."""
    return f"{START}(?:{pattern}){END}"


def json_string_pattern(tree: Node) -> str:
    """The pattern of JSON strings, quotes included, whose content matches the tree, which has no lookaround."""
    return f'"{written(tree, json_class_pattern)}"'


@lru_cache(maxsize=4096)
def json_class_pattern(ranges: Ranges) -> str:
    """One character of the set as JSON text. Characters that need an escape are kept only where the set has no others."""
    plain = charset.intersection(ranges, PLAIN_IN_JSON)
    if plain:
        return charset.class_pattern(plain)
    escapes = [json_escape(code) for first, last in ranges for code in range(first, last + 1)]
    texts = [write(literal(text), charset.class_pattern) for text in escapes]
    return f"(?:{'|'.join(texts)})"


def json_escape(code: int) -> str:
    """The escape of a code point in JSON text: beyond 16 bits those of two surrogates."""
    units = chr(code).encode("utf-16-be", "surrogatepass").hex()
    return SHORT_ESCAPES.get(code) or "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def written(tree: Node, character: Callable[[Ranges], str]) -> str:
    """The tree as text that others can be appended to."""
    return grouped(tree, character) if isinstance(tree, Alternation) else write(tree, character)


def write(node: Node, character: Callable[[Ranges], str]) -> str:
    """The tree as text. `character` writes a set as a pattern that needs no brackets when it is repeated."""
    match node:
        case Characters(ranges):
            return character(ranges)
        case Concatenation(parts):
            return "".join(written(part, character) for part in parts)
        case Alternation(options):
            return "|".join(write(option, character) for option in options)
        case Repetition(part, least, most):
            text = character(part.ranges) if isinstance(part, Characters) else grouped(part, character)
            return text + repeats(least, most)
    raise UnsupportedConstraint("a regular expression may not contain lookaround")


def grouped(node: Node, character: Callable[[Ranges], str]) -> str:
    return f"(?:{write(node, character)})"


def repeats(least: int, most: int | None) -> str:
    """The suffix that repeats an atom."""
    if most is None:
        return {0: "*", 1: "+"}.get(least, f"{{{least},}}")
    if (least, most) == (0, 1):
        return "?"
    return f"{{{least}}}" if least == most else f"{{{least},{most}}}"


def written_out(pattern: str) -> int:
    """Number of characters that the pattern matches one by one, with every repeat written out: what an automaton is made of."""
    sizes, last = [0], 0
    for token in TOKEN.finditer(pattern):
        if token["repeat"]:
            most = token["most"] or token["least"] or "1"
            sizes[-1] += last * (int(most) - 1)
        elif token["open"]:
            sizes.append(0)
        elif token["close"]:
            last = sizes.pop()
            sizes[-1] += last
        elif not token["option"]:
            last = 1
            sizes[-1] += 1
    return sizes[0]


def checked(pattern: str, most: int = MAX_POSITIONS) -> str:
    """The pattern, unless it is too large. Raises TooLarge."""
    size = written_out(pattern) if len(pattern) <= MAX_PATTERN else 0
    if len(pattern) > MAX_PATTERN or size > most:
        raise TooLarge(f"the constraint is too large: a pattern of {len(pattern)} characters, {size} with repeats written out")
    return pattern
