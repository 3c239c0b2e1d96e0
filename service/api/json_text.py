"""JSON that contains values which are JSON already, such as the arguments of a call."""

import json
from typing import Any


class RawJson(str):
    """JSON that is written as it is. Parsing it first would change numbers that Python represents otherwise."""

    __slots__ = ()


def to_json(value: Any) -> str:
    """The JSON of dictionaries, lists and plain values."""
    match value:
        case RawJson():
            return value
        case dict():
            return "{" + ",".join(f"{json.dumps(name)}:{to_json(item)}" for name, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(to_json, value)) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)
