"""The pattern of an array under its schema."""

from collections.abc import Callable, Iterator

from service.generation.constraints.branches import Branches
from service.generation.constraints.document import Bounds, Place, Schema, at
from service.generation.constraints.flat import Flat, values_of
from service.generation.constraints.number_schema import FAR
from service.generation.constraints.object_schema import together
from service.generation.constraints.pattern import UnsupportedConstraint
from service.generation.constraints.tree import EMPTY, Node, concatenation, literal, repetition
from service.generation.constraints.validity import item_schemas

Write = Callable[[Schema, Place], Node]
Attempt = Callable[[Schema, Place], Node | None]

COMMA = literal(",")
EXPLICIT = 10  # items beyond the fewest where maxItems allows them


class Arrays:
    """Writes arrays. `write` raises UnsupportedConstraint for a schema that has no pattern, `attempt` returns None."""

    def __init__(self, write: Write, attempt: Attempt, branches: Branches, bounds: Bounds) -> None:
        self.write = write
        self.attempt = attempt
        self.branches = branches
        self.bounds = bounds

    def pattern(self, flat: Flat, place: Place) -> Node:
        """The pattern. Raises UnsupportedConstraint."""
        fewest, most = self._numbers(flat, place)
        first = max([self._contained(flat), *(len(item_schemas(part)[0]) for part in flat.arrays)])
        if most > 1 and any(part.get("uniqueItems") for part in flat.arrays):
            return self._unique(flat, fewest, most, place)
        single = [self._item(flat, i, place, i < fewest) for i in range(min(first, most))]
        if None in single:
            return array([one for one in single[: single.index(None)] if one is not None], fewest)
        items = [one for one in single if one is not None]
        rest = self._item(flat, first, place, first < fewest) if most > first else None
        return array(items, fewest, rest, most)

    def _numbers(self, flat: Flat, place: Place) -> tuple[int, int]:
        """The fewest items that there have to be, and the most that there will be."""
        fewest, most = flat.limit("minItems", 0), flat.limit("maxItems", 1 << 30)
        fewest = max([fewest, self._contained(flat)])
        found = [int(part["maxContains"]) for part in flat.arrays if "contains" in part and "maxContains" in part]
        most = min([most, *(count for count in found if count or self._contained(flat))])
        if fewest > most:
            raise UnsupportedConstraint(f"{at(place.path)}no array has at least {fewest} and at most {most} items")
        lists = [len(item_schemas(part)[0]) for part in flat.arrays]
        explicit = EXPLICIT if self.bounds.items > 1 else self.bounds.items
        usual = max([fewest, 1]) + self.bounds.items - (not fewest)
        return fewest, min(most, max([usual, *lists]) if "maxItems" not in flat.limits else fewest + explicit)

    @staticmethod
    def _contained(flat: Flat) -> int:
        """The number of items at the beginning that `contains` speaks of."""
        return max((int(part.get("minContains", 1)) for part in flat.arrays if "contains" in part), default=0)

    def _schema(self, flat: Flat, index: int) -> Schema:
        schemas = []
        for part in flat.arrays:
            prefix, rest = item_schemas(part)
            schemas.append(prefix[index] if index < len(prefix) else rest)
            if "contains" in part and index < part.get("minContains", 1):
                schemas.append(part["contains"])
            elif "contains" in part and part.get("maxContains") == 0:
                schemas.append({"not": part["contains"]})
        return False if False in schemas else together(schemas)

    def _item(self, flat: Flat, index: int, place: Place, needed: bool) -> Node | None:
        inside = place.inside("items", flat.references)
        schema = self._schema(flat, index)
        return self.write(schema, inside) if needed else self.attempt(schema, inside)

    def _apart(self, schemas: list[Schema], slices: list[Schema], place: Place) -> list[Node]:
        """Items of the schemas, each within a slice of its own. Stops at the first for which no slice will do."""
        items: list[Node] = []
        unused = list(slices)
        for schema in schemas:
            for own in unused:
                item = self.attempt(together([schema, own]), place)
                if item is not None:
                    items.append(item)
                    unused.remove(own)
                    break
            else:
                break
        return items

    def _unique(self, flat: Flat, fewest: int, most: int, place: Place) -> Node:
        """Items that cannot be equal: each position has its own values, lengths or numbers."""
        schemas = [self._schema(flat, i) for i in range(min(most, max(fewest, 3)))]
        inside = place.inside("items", flat.references)
        flats = [] if self.attempt(schemas[-1], inside) is None else self.branches.of(schemas[-1], inside)
        for slices in distinct(flats, len(schemas)):
            items = self._apart(schemas, slices, inside)
            if len(items) >= max(fewest, 2):
                return array(items, fewest)
        one = self._item(flat, 0, place, fewest > 0)
        if fewest > 1:
            raise UnsupportedConstraint(f"{place.named('uniqueItems')} with {fewest} items of this schema is not supported")
        return array([] if one is None else [one], fewest)


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
            yield [
                {"type": "integer", "minimum": low + 10 * i, "exclusiveMinimum": low + 10 * i - 1, "maximum": low + 10 * i + 9}
                for i in range(count)
            ]
            yield [{"const": low + i} for i in range(count)]
        shortest = flat.limit("minLength", 0) or 3
        yield [{"type": "string", "minLength": shortest + i, "maxLength": shortest + i} for i in range(count)]
        least = max(flat.limit("minItems", 0), 1)
        yield [{"type": "array", "minItems": least + i, "maxItems": least + i} for i in range(count)]
    yield [{"const": value} for value in (True, False, None)]
    yield [{"type": name} for name in ("string", "number", "boolean", "null", "array", "object")]


def array(items: list[Node], fewest: int, rest: Node | None = None, most: int = 0) -> Node:
    """The items one after another, then `rest` until there are `most`. All beyond the fewest may be left out, but for the first."""
    after: Node = EMPTY
    if rest is not None:
        items = items or [rest]
        after = repetition(concatenation([COMMA, rest]), max(fewest - len(items), 0), most - len(items))
    for i in range(len(items) - 1, 0, -1):
        after = repetition(concatenation([COMMA, items[i], after]), int(i < fewest), 1)
    return concatenation([literal("["), *items[:1], after, literal("]")])
