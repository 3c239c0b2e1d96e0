"""A schema without references and alternatives: what all of its parts together ask of one value."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

from service.generation.constraints.document import Json, at
from service.generation.constraints.pattern import Fatal
from service.generation.constraints.values import exact, identity, type_of

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
OBJECT = (
    *("properties", "patternProperties", "additionalProperties", "required"),
    *("propertyNames", "dependentRequired", "dependencies"),
)
ARRAY = ("prefixItems", "items", "additionalItems", "contains", "minContains", "maxContains", "uniqueItems")


@dataclass(frozen=True)
class Flat:
    """Keywords of schemas that hold together. Those about members and items stay as they were, a dict for each schema."""

    types: tuple[str, ...] | None = None
    values: tuple[Json, ...] | None = None
    limits: Mapping[str, Fraction] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    multiples: tuple[Fraction, ...] = ()
    objects: tuple[Mapping[str, Json], ...] = ()
    arrays: tuple[Mapping[str, Json], ...] = ()
    excluded: tuple[Json, ...] = ()  # schemas under which the value may not be valid
    references: frozenset[str] = frozenset()  # those followed to get here

    @cached_property
    def required(self) -> frozenset[str]:
        """The names of members that may not be absent."""
        return frozenset(name for part in self.objects for name in part.get("required", ()))

    @cached_property
    def value_types(self) -> tuple[str, ...] | None:
        """The types of its only values, or else those that `type` names."""
        return self.types if self.values is None else tuple(dict.fromkeys(map(type_of, self.values)))

    def limit(self, keyword: str, default: int) -> int:
        """A count such as minItems."""
        return int(self.limits.get(keyword, default))

    def merged_with(self, other: Flat) -> Flat | None:
        """Both together. None where they contradict each other at first sight."""
        types = common_types(self.types, other.types)
        values = common_values(self.values, other.values)
        if types == () or values == ():
            return None
        limits = dict(self.limits)
        for keyword, bound in other.limits.items():
            choose = max if keyword in LOWER else min
            limits[keyword] = choose(bound, limits.get(keyword, bound))
        return Flat(
            types,
            values,
            limits,
            tuple(dict.fromkeys(self.patterns + other.patterns)),
            tuple(dict.fromkeys(self.formats + other.formats)),
            self.multiples + other.multiples,
            self.objects + other.objects,
            self.arrays + other.arrays,
            self.excluded + other.excluded,
            self.references | other.references,
        )


def values_of(flats: Iterable[Flat]) -> list[Json]:
    """The values that the flat schemas list, each once."""
    found: dict[Hashable, Json] = {}
    for one in flats:
        for value in one.values or ():
            found.setdefault(identity(value), value)
    return list(found.values())


def own_keywords(schema: Mapping[str, Json], where: str) -> Flat:
    """The keywords of one schema itself, which `keywords.check` has passed. Raises Fatal for an unknown type."""
    values = schema.get("enum")
    if "const" in schema:
        values = [one for one in values or [schema["const"]] if identity(one) == identity(schema["const"])]
    return Flat(
        named_types(schema, where),
        None if values is None else tuple(values),
        limits_of(schema),
        patterns=tuple([schema["pattern"]] if "pattern" in schema else ()),
        formats=tuple([schema["format"]] if "format" in schema else ()),
        multiples=tuple([exact(schema["multipleOf"])] if "multipleOf" in schema else ()),
        objects=tuple([part] if (part := {one: schema[one] for one in OBJECT if one in schema}) else ()),
        arrays=tuple([part] if (part := {one: schema[one] for one in ARRAY if one in schema}) else ()),
    )


def named_types(schema: Mapping[str, Json], where: str) -> tuple[str, ...] | None:
    """The types that `type` names. None where it is absent. Raises Fatal for an unknown one."""
    if "type" not in schema:
        return None
    named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not named:
        raise Fatal(f"{at(where)}type is an empty list")
    for name in named:
        if name not in TYPES:
            raise Fatal(f"{at(where)}unknown type {name!r}")
    return tuple(dict.fromkeys(name for name in named if name != "integer" or "number" not in named))


def limits_of(schema: Mapping[str, Json]) -> dict[str, Fraction]:
    """The bounds of numbers, lengths and counts, by keyword."""
    found = {}
    for keyword in LOWER + UPPER:
        bound = schema.get(keyword)
        if isinstance(bound, bool):  # draft 4: whether the bound of the keyword without `exclusive` is excluded
            bound = schema.get(keyword.removeprefix("exclusive").lower()) if bound else None
        if bound is not None:
            found[keyword] = exact(bound)
    return found


def common_types(left: tuple[str, ...] | None, right: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Types in both, where an integer is a number."""
    if left is None or right is None:
        return right if left is None else left
    both = [name for name in left if name in right or (name == "integer" and "number" in right)]
    return tuple(both + [name for name in right if name == "integer" and "number" in left and name not in both])


def common_values(left: tuple[Json, ...] | None, right: tuple[Json, ...] | None) -> tuple[Json, ...] | None:
    if left is None or right is None:
        return right if left is None else left
    known = {identity(value) for value in right}
    return tuple(value for value in left if identity(value) in known)
