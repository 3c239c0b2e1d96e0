"""The pattern of an object under its schema: its members in the schema's order, optional ones left out or not."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from service.generation.constraints import charset
from service.generation.constraints.branches import Branches
from service.generation.constraints.document import Bounds, Json, Place, Schema, at
from service.generation.constraints.flat import Flat
from service.generation.constraints.pattern import UnsupportedConstraint
from service.generation.constraints.string_schema import Strings, samples
from service.generation.constraints.tree import EMPTY, Characters, Node, alternation, concatenation, literal, repetition
from service.generation.constraints.validity import member_schemas
from service.generation.constraints.values import json_string_pattern, json_text

Write = Callable[[Schema, Place], Node]
Attempt = Callable[[Schema, Place], Node | None]

COMMA = literal(",")
FIRSTS = 6  # where no member is required, one of so many is there in any case, so that the pattern stays small
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Member:
    """The pattern of a name and a value, and whether the object may not lack it."""

    pattern: Node
    required: bool


class Objects:
    """Writes objects. `write` raises UnsupportedConstraint for a schema that has no pattern, `attempt` returns None."""

    def __init__(
        self, write: Write, attempt: Attempt, branches: Branches, valid: Callable[[Json, Schema], bool], bounds: Bounds
    ) -> None:
        self.write = write
        self.attempt = attempt
        self.branches = branches
        self.valid = valid
        self.bounds = bounds
        self.names = Strings(LETTERS, 6, valid)

    def pattern(self, flat: Flat, place: Place) -> Node:
        """The pattern. Raises UnsupportedConstraint."""
        fewest, most = flat.limit("minProperties", 0), flat.limit("maxProperties", 1 << 30)
        required = self._required(flat, place)
        if max(fewest, len(required)) > most:
            raise UnsupportedConstraint(f"{at(place.path)}more members are required than maxProperties {most}")
        members = self._named(flat, required, place)
        if len(members) < fewest or (not members and not any(part.get("properties") for part in flat.objects)):
            if most and self._open(flat):
                return self._free(flat, max(fewest, 1), min(most, max(fewest, self.bounds.members)), place)
            members += self._others(flat, max(fewest - len(members), 0), most - len(members), place)
        if len(members) < fewest:
            raise UnsupportedConstraint(f"{at(place.path)}no more than {len(members)} members are known, minProperties is {fewest}")
        return braced(counted(members, fewest, most))

    def _required(self, flat: Flat, place: Place) -> dict[str, None]:
        """The names of required members, and of those that they bring with them."""
        required = dict.fromkeys(name for part in flat.objects for name in part.get("required", []))
        dependent = dependencies(flat)
        waiting = list(required)
        while waiting:
            for name in dependent.get(waiting.pop(), ()):
                if name not in required:
                    required[name] = None
                    waiting.append(name)
        for name in required:
            if not self._allowed(flat, name):
                raise UnsupportedConstraint(f"{at(place.path)}the required member {name!r} is not allowed")
        return required

    def _allowed(self, flat: Flat, name: str) -> bool:
        named = all(self.valid(name, part["propertyNames"]) for part in flat.objects if "propertyNames" in part)
        return named and False not in self._schemas(flat, name)

    def _schemas(self, flat: Flat, name: str) -> list[Schema]:
        """All schemas that the member's value has to be valid under."""
        return [schema for part in flat.objects for schema in member_schemas(part, name)]

    def _named(self, flat: Flat, required: dict[str, None], place: Place) -> list[Member]:
        """The members that the schema names. One that cannot be written is left out, unless it is required."""
        names = dict.fromkeys(name for part in flat.objects for name in part.get("properties", {}))
        dependent = dependencies(flat)
        members: list[Member] = []
        room = max(self.bounds.optional, flat.limit("minProperties", 0) - len(required))
        for name in [*names, *(name for name in required if name not in names)]:
            needs_others = any(one not in required for one in dependent.get(name, ()))
            if name in required:
                members.append(Member(self._member(flat, name, place), True))
            elif room > 0 and not needs_others and self._allowed(flat, name):
                inside = place.inside(f"properties.{name}", flat.references)
                value = self.attempt(together(self._schemas(flat, name)), inside)
                members += [] if value is None else [Member(named(name, value), False)]
                room -= value is not None
        return members

    def _member(self, flat: Flat, name: str, place: Place) -> Node:
        value = self.write(together(self._schemas(flat, name)), place.inside(f"properties.{name}", flat.references))
        return named(name, value)

    @staticmethod
    def _open(flat: Flat) -> bool:
        """Whether any name will do, for members of which the schema names none."""
        named = ("properties", "patternProperties", "propertyNames", "required")
        return not any(part.get(keyword) not in (None, {}, [], True) for part in flat.objects for keyword in named)

    def _free(self, flat: Flat, fewest: int, most: int, place: Place) -> Node:
        """Members with short names. Each has a first letter of its own, so no two have the same name."""
        schemas = [part.get("additionalProperties", True) for part in flat.objects]
        if False in schemas:
            if fewest > 1 or flat.limit("minProperties", 0):
                raise UnsupportedConstraint(f"{at(place.path)}no member is allowed, and minProperties is {fewest}")
            return braced([])
        if most > len(LETTERS):
            raise UnsupportedConstraint(f"{at(place.path)}minProperties is more than {len(LETTERS)}")
        inside = place.inside("additionalProperties", flat.references)
        value = self.write(together(schemas), inside) if flat.limit("minProperties", 0) else self.attempt(together(schemas), inside)
        if value is None:
            return braced([])
        members = []
        for i in range(most):
            first = charset.of(LETTERS[len(LETTERS) * i // most : len(LETTERS) * (i + 1) // most])
            name = concatenation([Characters(first), repetition(Characters(charset.of(LETTERS)), 0, 7)])
            members.append(Member(concatenation([json_string_pattern(name), literal(":"), value]), i < fewest))
        return braced(members)

    def _others(self, flat: Flat, needed: int, room: int, place: Place) -> list[Member]:
        """Members with names that the schema does not list but that its patterns and other rules allow."""
        wanted = min(max(needed, self.bounds.members), room)
        members: list[Member] = []
        known = {name for part in flat.objects for keyword in ("properties", "required") for name in part.get(keyword, ())}
        inside = place.inside("additionalProperties", flat.references)
        hopeless = set()  # schemas, by their ids, for which there is no pattern
        for name in self._candidates(flat, wanted, place):
            if len(members) >= wanted:
                break
            schemas = self._schemas(flat, name)
            ids = tuple(map(id, schemas))
            if name in known or ids in hopeless or not self._allowed(flat, name):
                continue
            known.add(name)
            value = self.attempt(together(schemas), inside)
            if value is None:
                hopeless.add(ids)
            else:
                members.append(Member(named(name, value), False))
        return members

    def _candidates(self, flat: Flat, wanted: int, place: Place) -> Iterator[str]:
        """Names to try: those that rules of names describe, then short ones."""
        for part in flat.objects:
            rules = [{"pattern": regex, "minLength": length} for regex in part.get("patternProperties", {}) for length in (6, 1)]
            for rule in [*rules, part.get("propertyNames", True)]:
                for one in [] if isinstance(rule, bool) else self.branches.of(rule, place):
                    yield from (value for value in one.values or () if isinstance(value, str))
                    with suppress(UnsupportedConstraint):
                        yield from samples(self.names.tree(one), 40) if one.values is None else ()
        for length in range(1, 3 + wanted // len(LETTERS)):
            yield from (letter * length for letter in LETTERS)


def dependencies(flat: Flat) -> dict[str, list[str]]:
    """By name: the members without which it may not be there."""
    found: dict[str, list[str]] = {}
    for part in flat.objects:
        for keyword in ("dependentRequired", "dependencies"):
            for name, needed in part.get(keyword, {}).items():
                found.setdefault(name, []).extend(needed if isinstance(needed, list) else [])
    return found


def together(schemas: Sequence[Schema]) -> Schema:
    """One schema that asks for all of them."""
    distinct = [schema for i, schema in enumerate(schemas) if schema not in (True, {}) and schema not in schemas[:i]]
    if len(distinct) < 2:
        return distinct[0] if distinct else True
    return {"allOf": distinct}


def counted(members: list[Member], fewest: int, most: int) -> list[Member]:
    """With as many of the first optional members required, and of the last ones dropped, as the bounds of the number need."""
    required = sum(one.required for one in members)
    missing, room = max(fewest - required, 0), most - required
    kept = []
    for one in members:
        if one.required:
            kept.append(one)
        elif room > 0:
            kept.append(Member(one.pattern, missing > 0))
            missing -= 1
            room -= 1
    return kept


def named(name: str, value: Node) -> Node:
    return concatenation([literal(f"{json_text(name)}:"), value])


def braced(members: Sequence[Member]) -> Node:
    return concatenation([literal("{"), joined(members), literal("}")])


def joined(members: Sequence[Member]) -> Node:
    """The members in order with commas between, at least one where there are any."""
    if not members:
        return EMPTY
    fixed = next((i for i, one in enumerate(members) if one.required), None)
    if fixed is not None:
        before = [repetition(concatenation([one.pattern, COMMA]), 0, 1) for one in members[:fixed]]
        return concatenation([*before, members[fixed].pattern, following(members[fixed + 1 :])])
    if len(members) == 1:
        return members[0].pattern
    if len(members) > FIRSTS:
        return concatenation([joined(members[:FIRSTS]), following(members[FIRSTS:])])
    half = len(members) // 2
    early = concatenation([joined(members[:half]), following(members[half:])])
    return alternation([early, joined(members[half:])])


def following(members: Sequence[Member]) -> Node:
    return concatenation(repetition(concatenation([COMMA, one.pattern]), int(one.required), 1) for one in members)
