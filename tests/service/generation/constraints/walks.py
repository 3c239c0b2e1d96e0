"""Compiles patterns as the service does, and finds out what they match."""

import json
import string
from random import Random
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from service.generation.constraints import worker
from service.generation.constraints.charset import END
from service.generation.constraints.json_schema import json_pattern
from service.generation.constraints.tree import Node

SHAKESPEARE = "\n !$&',-.3:;?" + string.ascii_letters


class Automaton:
    """A compiled pattern over the model's vocabulary, printable ASCII and the pattern's own characters."""

    def __init__(self, pattern: Node, more: str = "") -> None:
        """`more`: further characters that the vocabulary holds."""
        known = sorted(one for one in {*SHAKESPEARE, *string.printable[:95], *more} if not "\ud800" <= one <= "\udfff")
        named, table, _ = worker.automaton(pattern, "".join(known))
        characters = [*known, *named, END]
        rows = np.frombuffer(table, np.int32).reshape(-1, len(characters))
        self.moves = [{characters[i]: int(row[i]) for i in np.flatnonzero(row >= 0)} for row in rows]

    def matches(self, text: str) -> bool:
        """Whether the pattern matches the whole text."""
        state = 0
        for character in text + END:
            if character not in self.moves[state]:
                return False
            state = self.moves[state][character]
        return True

    def walk(self, random: Random) -> str:
        """A random text of the pattern."""
        text, state = "", 0
        while True:
            character = random.choice(sorted(self.moves[state]))
            if character == END:
                return text
            text, state = text + character, self.moves[state][character]


def compiled(schema: Any) -> Automaton:
    return Automaton(json_pattern(schema, SHAKESPEARE), json.dumps(schema, ensure_ascii=False))


def texts(schema: Any, count: int = 30) -> list[str]:
    """Random texts of the schema's pattern. Each is checked to be valid and compact."""
    automaton, random = compiled(schema), Random(0)
    found = [automaton.walk(random) for _ in range(count)]
    for text in found:
        validate(text, schema)
    return found


def validate(text: str, schema: Any) -> None:
    """The text is valid under the schema, of the draft that its `$schema` names, and no object in it has a name twice."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), f"a name twice in {text}"
        return dict(pairs)

    draft = validator_for(schema, default=Draft202012Validator)
    draft(schema, format_checker=draft.FORMAT_CHECKER).validate(json.loads(text, object_pairs_hook=members))


def check(schema: Any, matching: list[str], other: list[str]) -> None:
    """The schema's pattern matches some texts and not others, and all that it matches is valid."""
    automaton = compiled(schema)
    assert [text for text in matching if not automaton.matches(text)] == []
    assert [text for text in other if automaton.matches(text)] == []
    texts(schema)


def whole(**properties: Any) -> dict[str, Any]:
    """The schema of an object with all of these members."""
    return {"type": "object", "properties": properties, "required": list(properties)}
