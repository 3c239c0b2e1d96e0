"""JSON values: their type, when two are equal, and their text in a pattern."""

import json
import re
from collections.abc import Hashable
from fractions import Fraction
from functools import lru_cache
from math import isfinite
from typing import Any

from service.generation.constraints import charset
from service.generation.constraints.charset import Ranges
from service.generation.constraints.pattern import UnsupportedConstraint
from service.generation.constraints.tree import Characters, Node, alternation, concatenation, literal, rebuilt

PLAIN_IN_JSON = charset.minus(
    charset.complement(()), charset.CONTROLS, charset.LINE_SEPARATORS, charset.SURROGATES, charset.of('"\\')
)
QUOTE = literal('"')
ESCAPED = "[\x7f-\x9f\u2028\u2029\ud800-\udfff\U0010fffe\U0010ffff]"  # not in PLAIN_IN_JSON, and not escaped by json.dumps


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    return is_number(value) and (isinstance(value, int) or value.is_integer())


def is_type(value: Any, name: str) -> bool:
    """Whether a value is of a JSON Schema type."""
    if name == "integer":
        return is_integer(value)
    return type_of(value) == name


def type_of(value: Any) -> str:
    """The JSON type, of which `integer` is none."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if is_number(value):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def identity(value: Any) -> Hashable:
    """Equal for equal values: 1 equals 1.0 but not true, and members have no order."""
    if isinstance(value, list):
        return "array", tuple(identity(one) for one in value)
    if isinstance(value, dict):
        return "object", frozenset((name, identity(one)) for name, one in value.items())
    if is_number(value):
        return "number", exact(value)
    return type_of(value), value


def exact(number: float) -> Fraction:
    """A number as JSON writes it: 0.1 is a tenth, not the float next to it. 1e23 is the integer that Python reads."""
    if isinstance(number, int) or number.is_integer():
        return Fraction(number)
    if not isfinite(number):
        raise UnsupportedConstraint("a number of the schema is not finite")
    return Fraction(repr(number))


def json_text(value: Any) -> str:
    """The value as compact JSON. Characters are written raw except for controls, line separators, surrogates and noncharacters."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub(ESCAPED, lambda found: json.dumps(found[0])[1:-1], text)


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
    return alternation(literal(json.dumps(chr(code))[1:-1]) for first, last in ranges for code in range(first, last + 1))
