"""JSON values: their type, when two are equal, and their text."""

import json
import re
from collections.abc import Hashable
from fractions import Fraction
from typing import Any

from service.generation.constraints.pattern import json_escape
from service.generation.constraints.unsupported import UnsupportedConstraint

ESCAPED = "[\x7f-\x9f\u2028\u2029\ud800-\udfff\U0010fffe\U0010ffff]"  # what json.dumps leaves raw, and a pattern does not


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
    """A number as JSON writes it: 0.1 is a tenth, not the float next to it."""
    if isinstance(number, int):
        return Fraction(number)
    if number != number or number in (float("inf"), float("-inf")):
        raise UnsupportedConstraint("a number of the schema is not finite")
    return Fraction(repr(number))


def json_text(value: Any) -> str:
    """The value as compact JSON. Characters are written raw except for controls, line separators, surrogates and noncharacters."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub(ESCAPED, lambda found: json_escape(ord(found[0])), text)
