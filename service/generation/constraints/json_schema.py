"""The pattern of a JSON Schema: every match is compact JSON that is valid under the schema.

Not every valid value matches. A model of characters does not know when to end, so limits hold for what the schema leaves open.
"""

from collections.abc import Iterable
from functools import partial

from service.generation.constraints.array_schema import Array
from service.generation.constraints.branches import Branches
from service.generation.constraints.document import BOUNDS, Bounds, Document, Json, Place, Schema, at, attempts
from service.generation.constraints.flat import Flat, values_of
from service.generation.constraints.number_schema import LIMITS, number_pattern
from service.generation.constraints.object_schema import Object
from service.generation.constraints.pattern import TooLarge, TooMuchWork, UnsupportedConstraint, checked
from service.generation.constraints.string_schema import Strings
from service.generation.constraints.tree import Node, alternation, literal
from service.generation.constraints.validity import Validity
from service.generation.constraints.values import json_text

MAX_DEPTH = 30
MOST_LITERALS = 4_000  # characters of all values of one `enum`
SCALARS = ("string", "number", "boolean")  # types of an item or a member where the schema implies none
IMPLIED = (  # types implied by keywords where `type` is absent
    ("string", ("minLength", "maxLength")),
    ("number", LIMITS),
    ("array", ("minItems", "maxItems")),
    ("object", ("minProperties", "maxProperties")),
)


def json_pattern(schema: Schema, free: str) -> Node:
    """A pattern whose every match is JSON that is valid under the schema, with `,` and `:` as separators.

    `free`: characters for strings whose content the schema leaves open. Raises UnsupportedConstraint.
    """
    *wide, tightest = BOUNDS
    try:
        for bounds in wide:
            try:
                return Writer(schema, free, bounds).write(schema, Place())
            except TooMuchWork:
                break
            except TooLarge:
                continue
        return Writer(schema, free, tightest).write(schema, Place())
    except RecursionError:
        raise UnsupportedConstraint("the schema is nested too deep, or refers to itself without end") from None


def free_json_object(free: str) -> Node:
    """A pattern of JSON objects of any content."""
    scalar = {"type": list(SCALARS)}
    value = {"anyOf": [scalar, {"type": "array", "items": scalar}, {"type": "object", "additionalProperties": scalar}]}
    return json_pattern({"type": "object", "additionalProperties": value}, free)


class Writer:
    """Writes the schemas of one document as patterns."""

    def __init__(self, schema: Schema, free: str, bounds: Bounds) -> None:
        self.bounds = bounds
        self.document = Document(schema)
        self.strict = Validity(self.document, formats=True)
        self.lenient = Validity(self.document, formats=False)
        self.branches = Branches(self.document, bounds.recursion, self.lenient, self.possible)
        self.strings = Strings(free, bounds.characters, self.lenient.valid)

    def attempt(self, schema: Schema, place: Place) -> Node | None:
        """The pattern, or None where there is none."""
        found, _ = attempts([partial(self.write, schema, place)])
        return found[0] if found else None

    def possible(self, flat: Flat, place: Place) -> bool:
        """Whether anything can be written for the flat schema."""
        return bool(attempts([partial(self.write_flat, flat, place)])[0])

    def write(self, schema: Schema, place: Place) -> Node:
        """The pattern of one schema. Raises UnsupportedConstraint."""
        if place.depth > MAX_DEPTH:
            raise UnsupportedConstraint(f"{at(place.path)}values are nested more than {MAX_DEPTH} deep")
        flats = self.branches.of(schema, place)
        if not flats:
            raise UnsupportedConstraint(f"{at(place.path)}the schema allows nothing")
        literals = (literal(json_text(value)) for value in values_of(flats) if self.strict.valid(value, schema, place.path))
        options = within_size(literals, MOST_LITERALS)
        found, errors = attempts(partial(self.write_flat, one, place) for one in flats if one.values is None)
        options += found
        if not options:
            no_value = UnsupportedConstraint(f"{at(place.path)}no value of enum or const is valid under the schema")
            raise errors[0] if errors else no_value
        return checked(alternation(options), self.bounds.positions)

    def write_flat(self, flat: Flat, place: Place) -> Node:
        """The pattern of a flat schema. Raises UnsupportedConstraint."""
        if flat.values is not None:
            return alternation(literal(json_text(value)) for value in flat.values)
        errors = []
        named = flat.types or implied_types(flat)
        for types in (named,) if named else (SCALARS, ("array", "object", "null")):
            options, found = attempts(partial(self.write_type, flat, name, place) for name in types)
            if options:
                return alternation(options)
            errors += found
        raise errors[0]

    def write_type(self, flat: Flat, name: str, place: Place) -> Node:
        """The pattern of values of one type."""
        self.document.spend(place.path)
        if name == "null" or name == "boolean":
            values: list[Json] = [None] if name == "null" else [True, False]
            return alternation(literal(json_text(value)) for value in values)
        if name == "string":
            return self.strings.pattern(flat, place.path)
        if name == "array":
            return Array(self, flat, place).pattern()
        if name == "object":
            return Object(self, flat, place).pattern()
        return number_pattern(flat, name == "integer", self.lenient.valid, place.path)


def implied_types(flat: Flat) -> tuple[str, ...]:
    """The types that the keywords of a schema without `type` imply."""
    named = {"string": flat.patterns or flat.formats, "number": flat.multiples, "array": flat.arrays, "object": flat.objects}
    return tuple(name for name, limits in IMPLIED if named[name] or any(limit in flat.limits for limit in limits))


def within_size(options: Iterable[Node], most: int) -> list[Node]:
    """The first options that have at most so many characters in total, and the first one in any case."""
    found: list[Node] = []
    for one in options:
        if found and sum(option.size for option in found) + one.size > most:
            break
        found.append(one)
    return found
