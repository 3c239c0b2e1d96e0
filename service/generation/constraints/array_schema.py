"""The pattern of an array under its schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING

from service.generation.constraints.document import Place, Schema, at
from service.generation.constraints.flat import Flat, values_of
from service.generation.constraints.number_schema import FAR
from service.generation.constraints.object_schema import all_of
from service.generation.constraints.pattern import UnsupportedConstraint
from service.generation.constraints.tree import EMPTY, Node, concatenation, literal, repetition
from service.generation.constraints.validity import item_schemas

if TYPE_CHECKING:
    from service.generation.constraints.json_schema import Writer

COMMA = literal(",")
EXPLICIT = 10  # items beyond the fewest where maxItems allows them


@dataclass(frozen=True)
class Array:
    """An array under a flat schema."""

    writer: Writer
    flat: Flat
    place: Place

    @cached_property
    def inside(self) -> Place:
        return self.place.inside("items", self.flat.references)

    def pattern(self) -> Node:
        """Raises UnsupportedConstraint."""
        fewest, most = self._numbers()
        first = max([self._contained(), *(len(item_schemas(part)[0]) for part in self.flat.arrays)])
        if most > 1 and any(part.get("uniqueItems") for part in self.flat.arrays):
            return self._unique(fewest, most)
        items: list[Node] = []
        for i in range(min(first, most)):
            item = self._item(i, i < fewest)
            if item is None:
                return listed(items, fewest)
            items.append(item)
        rest = self._item(first, first < fewest) if most > first else None
        return listed(items, fewest, rest, most)

    def _numbers(self) -> tuple[int, int]:
        """The fewest items that there have to be, and the most that there will be."""
        flat, bounds = self.flat, self.writer.bounds
        contained = self._contained()
        fewest = max(flat.limit("minItems", 0), contained)
        found = [int(part["maxContains"]) for part in flat.arrays if "contains" in part and "maxContains" in part]
        most = min([flat.limit("maxItems", 1 << 30), *(count for count in found if count or contained)])
        if fewest > most:
            raise UnsupportedConstraint(f"{at(self.place.path)}no array has at least {fewest} and at most {most} items")
        lists = [len(item_schemas(part)[0]) for part in flat.arrays]
        explicit = EXPLICIT if bounds.items > 1 else bounds.items
        usual = max(fewest, 1) + bounds.items - (not fewest)
        return fewest, min(most, max([usual, *lists]) if "maxItems" not in flat.limits else fewest + explicit)

    def _contained(self) -> int:
        """The number of leading items that must match `contains`."""
        return max((int(part.get("minContains", 1)) for part in self.flat.arrays if "contains" in part), default=0)

    def _schema(self, index: int) -> Schema:
        schemas = []
        for part in self.flat.arrays:
            prefix, rest = item_schemas(part)
            schemas.append(prefix[index] if index < len(prefix) else rest)
            if "contains" in part and index < part.get("minContains", 1):
                schemas.append(part["contains"])
            elif "contains" in part and part.get("maxContains") == 0:
                schemas.append({"not": part["contains"]})
        return False if False in schemas else all_of(schemas)

    def _item(self, index: int, needed: bool) -> Node | None:
        """None where the item cannot be written and is not needed."""
        write = self.writer.write if needed else self.writer.attempt
        return write(self._schema(index), self.inside)

    def _unique(self, fewest: int, most: int) -> Node:
        """Items that cannot be equal: each position has its own values, lengths or numbers."""
        positions = (self._schema(i) for i in range(min(most, max(fewest, 3))))
        schemas = list(takewhile(lambda schema: schema is not False, positions)) or [False]
        flats = [] if self.writer.attempt(schemas[-1], self.inside) is None else self.writer.branches.of(schemas[-1], self.inside)
        for slices in distinct(flats, len(schemas)):
            items = self._distinct_items(schemas, slices)
            if len(items) >= max(fewest, 2):
                return listed(items, fewest)
        one = self._item(0, fewest > 0)
        if fewest > 1:
            raise UnsupportedConstraint(f"{self.place.named('uniqueItems')} with {fewest} items of this schema is not supported")
        return listed([] if one is None else [one], fewest)

    def _distinct_items(self, schemas: list[Schema], slices: list[Schema]) -> list[Node]:
        """Items of the schemas, each within a slice of its own. Stops at the first for which no slice will do."""
        items: list[Node] = []
        unused = list(slices)
        for schema in schemas:
            for own in unused:
                item = self.writer.attempt(all_of([schema, own]), self.inside)
                if item is not None:
                    items.append(item)
                    unused.remove(own)
                    break
            else:
                break
        return items


def distinct(flats: list[Flat], count: int) -> Iterator[list[Schema]]:
    """Ways to give each of so many positions a schema that no value of another position fits."""
    values = values_of(flats)
    if values:
        count = min(count, len(values))
        yield [{"enum": values[len(values) * i // count : len(values) * (i + 1) // count]} for i in range(count)]
    for flat in flats:
        if flat.types is not None and {"integer", "number"} & set(flat.types):
            low = max(int(flat.limits.get("minimum", flat.limits.get("exclusiveMinimum", 0))), -FAR)
            low = 0 if low == -FAR else low
            yield [{"type": "integer", "minimum": low + 10 * i, "maximum": low + 10 * i + 9} for i in range(count)]
            yield [{"const": low + i} for i in range(count)]
        shortest = flat.limit("minLength", 0) or 3
        yield [{"type": "string", "minLength": shortest + i, "maxLength": shortest + i} for i in range(count)]
        least = max(flat.limit("minItems", 0), 1)
        yield [{"type": "array", "minItems": least + i, "maxItems": least + i} for i in range(count)]
    yield [{"const": value} for value in (True, False, None)]
    yield [{"type": name} for name in ("string", "number", "boolean", "null", "array", "object")]


def listed(items: list[Node], fewest: int, rest: Node | None = None, most: int = 0) -> Node:
    """The items one after another, then `rest` until there are `most`. All beyond the fewest are optional, except the first."""
    after: Node = EMPTY
    if rest is not None:
        items = items or [rest]
        after = repetition(concatenation([COMMA, rest]), max(fewest - len(items), 0), most - len(items))
    for i in range(len(items) - 1, 0, -1):
        after = repetition(concatenation([COMMA, items[i], after]), int(i < fewest), 1)
    return concatenation([literal("["), *items[:1], after, literal("]")])
