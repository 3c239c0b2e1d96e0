"""The pattern of an object under its schema: its members in the schema's order, optional ones left out or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from service.generation.constraints import charset
from service.generation.constraints.document import Place, Schema, at
from service.generation.constraints.flat import Flat
from service.generation.constraints.pattern import UnsupportedConstraint
from service.generation.constraints.string_schema import Strings, samples
from service.generation.constraints.tree import EMPTY, Characters, Node, alternation, concatenation, literal, repetition
from service.generation.constraints.validity import member_schemas
from service.generation.constraints.values import identity, json_string_pattern, json_text

if TYPE_CHECKING:
    from service.generation.constraints.json_schema import Writer

COMMA = literal(",")
FIRSTS = 6  # where no member is required, one of so many is there in any case, so that the pattern stays small
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Member:
    """The pattern of a name and a value, and whether the object may not lack it."""

    pattern: Node
    required: bool


@dataclass(frozen=True)
class Object:
    """An object under a flat schema."""

    writer: Writer
    flat: Flat
    place: Place

    def pattern(self) -> Node:
        """The pattern. Raises UnsupportedConstraint."""
        fewest, most = self.flat.limit("minProperties", 0), self.flat.limit("maxProperties", 1 << 30)
        if max(fewest, len(self.required)) > most:
            raise UnsupportedConstraint(f"{at(self.place.path)}more members are required than maxProperties {most}")
        members = self._named()
        if len(members) < fewest or (not members and not any(part.get("properties") for part in self.flat.objects)):
            if most and self._open():
                return self._free(max(fewest, 1), min(most, max(fewest, self.writer.bounds.members)))
            members += self._others(max(fewest - len(members), 0), most - len(members))
        if len(members) < fewest:
            known = f"no more than {len(members)} members are known"
            raise UnsupportedConstraint(f"{at(self.place.path)}{known}, minProperties is {fewest}")
        return braced(within_count(members, fewest, most))

    @cached_property
    def required(self) -> dict[str, None]:
        """The names of required members, and of those that they bring with them. Raises UnsupportedConstraint."""
        required = [name for part in self.flat.objects for name in part.get("required", [])]
        for name in required:  # the list grows
            required += [one for one in self.dependent.get(name, ()) if one not in required]
        for name in required:
            if not self._allowed(name):
                raise UnsupportedConstraint(f"{at(self.place.path)}the required member {name!r} is not allowed")
        return dict.fromkeys(required)

    @cached_property
    def dependent(self) -> dict[str, list[str]]:
        """By name: the members without which it may not be there."""
        found: dict[str, list[str]] = {}
        for part in self.flat.objects:
            for keyword in ("dependentRequired", "dependencies"):
                for name, needed in part.get(keyword, {}).items():
                    found.setdefault(name, []).extend(needed if isinstance(needed, list) else [])
        return found

    def _optional(self, name: str) -> bool:
        """Whether an optional member may have this name: it is allowed, and all that it depends on is required."""
        return self.required.keys() >= {*self.dependent.get(name, ())} and self._allowed(name)

    def _allowed(self, name: str) -> bool:
        valid = self.writer.strict.valid
        rules = [part["propertyNames"] for part in self.flat.objects if "propertyNames" in part]
        return all(valid(name, rule, self.place.named("propertyNames")) for rule in rules) and False not in self._schemas(name)

    def _schemas(self, name: str) -> list[Schema]:
        """All schemas that the member's value has to be valid under."""
        return [schema for part in self.flat.objects for schema in member_schemas(part, name)]

    def _named(self) -> list[Member]:
        """The members that the schema names. One that cannot be written is left out, unless it is required."""
        names = dict.fromkeys(name for part in self.flat.objects for name in part.get("properties", {}))
        members: list[Member] = []
        room = max(self.writer.bounds.optional, self.flat.limit("minProperties", 0) - len(self.required))
        for name in names | self.required:
            needed = name in self.required
            if needed or (room > 0 and self._optional(name)):
                value = self._value(self._schemas(name), f"properties.{name}", needed)
                if value is not None:
                    members.append(Member(named(name, value), needed))
                    room -= not needed
        return members

    def _value(self, schemas: list[Schema], step: str, needed: bool) -> Node | None:
        """The pattern of a member's value under all schemas. None where there is none and the member is not needed."""
        write = self.writer.write if needed else self.writer.attempt
        return write(all_of(schemas), self.place.inside(step, self.flat.references))

    def _open(self) -> bool:
        """Whether any name will do, for members of which the schema names none."""
        named = ("properties", "patternProperties", "propertyNames", "required", "dependentRequired", "dependencies")
        return not any(part.get(keyword) not in (None, {}, [], True) for part in self.flat.objects for keyword in named)

    def _free(self, fewest: int, most: int) -> Node:
        """Members with short names. Each has a first letter of its own, so no two have the same name."""
        schemas = [part.get("additionalProperties", True) for part in self.flat.objects]
        if False in schemas:
            if fewest > 1 or self.flat.limit("minProperties", 0):
                raise UnsupportedConstraint(f"{at(self.place.path)}no member is allowed, and minProperties is {fewest}")
            return braced([])
        if most > len(LETTERS):
            raise UnsupportedConstraint(f"{at(self.place.path)}minProperties is more than {len(LETTERS)}")
        value = self._value(schemas, "additionalProperties", self.flat.limit("minProperties", 0) > 0)
        if value is None:
            return braced([])
        members = []
        for i in range(most):
            first = charset.of(LETTERS[len(LETTERS) * i // most : len(LETTERS) * (i + 1) // most])
            name = concatenation([Characters(first), repetition(Characters(charset.of(LETTERS)), 0, 7)])
            members.append(Member(concatenation([json_string_pattern(name), literal(":"), value]), i < fewest))
        return braced(members)

    def _others(self, needed: int, room: int) -> list[Member]:
        """Members with names that the schema does not list but that its patterns and other rules allow."""
        wanted = min(max(needed, self.writer.bounds.members), room)
        members: list[Member] = []
        known = {*self.required, *(name for part in self.flat.objects for name in part.get("properties", ()))}
        without_pattern = set()  # schemas, by their ids, for which there is no pattern
        for name in self._candidates(wanted):
            if len(members) >= wanted:
                break
            schemas = self._schemas(name)
            ids = tuple(map(id, schemas))
            if name in known or ids in without_pattern or not self._optional(name):
                continue
            known.add(name)
            value = self._value(schemas, "additionalProperties", False)
            if value is None:
                without_pattern.add(ids)
            else:
                members.append(Member(named(name, value), False))
        return members

    def _candidates(self, wanted: int) -> Iterator[str]:
        """Names to try: those that rules of names describe, then short ones."""
        names = Strings(LETTERS, 6, self.writer.lenient.valid)
        for part in self.flat.objects:
            rules = [{"pattern": regex, "minLength": length} for regex in part.get("patternProperties", {}) for length in (6, 1)]
            for rule in [*rules, part.get("propertyNames", True)]:
                for one in [] if isinstance(rule, bool) else self.writer.branches.of(rule, self.place):
                    yield from (value for value in one.values or () if isinstance(value, str))
                    with suppress(UnsupportedConstraint):
                        yield from samples(names.tree(one), 40) if one.values is None else ()
        for length in range(1, 3 + wanted // len(LETTERS)):
            yield from (letter * length for letter in LETTERS)


def all_of(schemas: Sequence[Schema]) -> Schema:
    """One schema that asks for all of them."""
    distinct = [schema for schema in schemas if schema not in (True, {})]
    if len(distinct) > 1:
        distinct = list({identity(schema): schema for schema in distinct}.values())
    return {"allOf": distinct} if len(distinct) > 1 else distinct[0] if distinct else True


def within_count(members: list[Member], fewest: int, most: int) -> list[Member]:
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
