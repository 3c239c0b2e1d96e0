"""Whether two flat schemas have no value in common, and what remains of one without the values of another."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction

from service.generation.constraints.document import Json, Schema
from service.generation.constraints.flat import TYPES, Flat, common_types
from service.generation.constraints.values import exact, identity, is_number, type_of

Flatten = Callable[[Schema], list[Flat]]

Options = Iterator[Flat | None]  # None for one that contradicts itself

ADDED = "added"  # a keyword of members and items that are there only in order to violate another schema
COUNTS = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems"), "object": ("minProperties", "maxProperties")}


def disjoint(left: Flat, right: Flat, flatten: Flatten, nesting: int = 0) -> bool:
    """Whether no value fits both, as far as it is clear: by type, by values, by bounds, or by a required member."""
    types = common_types(left.value_types, right.value_types)
    if types == ():
        return True
    if left.values is not None and right.values is not None:
        return not {identity(one) for one in left.values} & {identity(one) for one in right.values}
    kinds = {("number" if name == "integer" else name) for name in types or ()}
    if kinds == {"number"}:
        return least(left) > most(right) or least(right) > most(left)
    if len(kinds) == 1 and (bounds := COUNTS.get(*kinds)):
        both = left.merged_with(right)
        if both and both.limit(bounds[0], 0) > both.limit(bounds[1], 1 << 60):
            return True
    if kinds != {"object"} or nesting > 2:
        return False
    return any(disjoint_at(name, left, right, flatten, nesting) for name in sorted(left.required | right.required))


def disjoint_at(name: str, left: Flat, right: Flat, flatten: Flatten, nesting: int = 0) -> bool:
    """Whether no member of this name fits both."""
    here, there = (
        [part["properties"][name] for part in one.objects if name in part.get("properties", {})] for one in (left, right)
    )
    if not here or not there:
        return False
    return any(
        all(disjoint(one, other, flatten, nesting + 1) for one in flatten(ours) for other in flatten(theirs))
        for ours in here
        for theirs in there
    )


def least(one: Flat) -> Fraction | float:
    """The lower bound of its numbers, without regard to whether it is included."""
    return max((one.limits[name] for name in ("minimum", "exclusiveMinimum") if name in one.limits), default=float("-inf"))


def most(one: Flat) -> Fraction | float:
    return min((one.limits[name] for name in ("maximum", "exclusiveMaximum") if name in one.limits), default=float("inf"))


def difference(one: Flat, other: Flat, schema: Schema, flatten: Flatten) -> Iterator[Options]:
    """Flat schemas of values of `one` that are not valid under `other`, which is a part of `schema`.

    They come as options for each type, of which the first possible one will do.
    """
    types = one.types or tuple(name for name in TYPES if name != "integer")
    foreign = tuple(name for name in types if common_types((name,), other.types) == ())
    if foreign:  # the easiest way out: a type that the other one does not know
        yield iter([replace(one, types=foreign)])
        return
    for name in types:
        yield options_of_type(replace(one, types=(name,)), name, other, schema, flatten)


def options_of_type(one: Flat, kind: str, other: Flat, schema: Schema, flatten: Flatten) -> Options:
    if kind in ("boolean", "null"):
        values: tuple[Json, ...] = (True, False) if kind == "boolean" else (None,)
        known = None if other.values is None else {identity(value) for value in other.values}
        left = tuple(value for value in values if known is not None and identity(value) not in known)
        if left:
            yield replace(one, values=left)
        return
    yield from count_options(one, kind, other) if kind in COUNTS else number_options(one, other)
    if kind == "array":
        yield from array_options(one, other)
    elif kind == "object":
        yield from object_options(one, other, flatten)
    else:
        yield replace(one, excluded=(*one.excluded, schema))


def limit(keyword: str, bound: Fraction | int) -> Flat:
    return Flat(limits={keyword: Fraction(bound)})


def count_options(one: Flat, kind: str, other: Flat) -> Options:
    """With more or fewer characters, items or members."""
    least_count, most_count = COUNTS[kind]
    if most_count in other.limits:
        yield one.merged_with(limit(least_count, other.limits[most_count] + 1))
    if other.limits.get(least_count, 0) > 0:
        yield one.merged_with(limit(most_count, other.limits[least_count] - 1))
    if other.values is not None and (kind != "string" or not (one.patterns or one.formats)):
        known = [len(value) for value in other.values if type_of(value) == kind]
        yield one.merged_with(limit(least_count, max(known, default=-1) + 1))
        yield one.merged_with(limit(most_count, min(known, default=1) - 1))


def number_options(one: Flat, other: Flat) -> Options:
    for keyword, opposite in (
        ("maximum", "exclusiveMinimum"),
        ("exclusiveMaximum", "minimum"),
        ("minimum", "exclusiveMaximum"),
        ("exclusiveMinimum", "maximum"),
    ):
        if keyword in other.limits:
            yield one.merged_with(limit(opposite, other.limits[keyword]))
    known = [exact(value) for value in other.values or () if is_number(value)]
    if other.values is not None:
        yield one.merged_with(limit("minimum", max(known, default=-1) + 1))
        yield one.merged_with(limit("maximum", min(known, default=1) - 1))


def array_options(one: Flat, other: Flat) -> Options:
    for part in other.arrays:
        if isinstance(part.get("items"), dict | bool) and "prefixItems" not in part:
            yield with_items(one, {"items": {"not": part["items"]}})
        if part.get("prefixItems"):
            yield with_items(one, {"prefixItems": [{"not": part["prefixItems"][0]}]})


def with_items(one: Flat, part: Mapping[str, Json]) -> Flat | None:
    """With at least one item, and items as `part` says."""
    return one.merged_with(Flat(limits={"minItems": Fraction(1)}, arrays=({**part, ADDED: True},)))


def object_options(one: Flat, other: Flat, flatten: Flatten) -> Options:
    ours = list(dict.fromkeys(name for part in one.objects for name in part.get("properties", {})))
    for name in ours:  # a discriminating member that is not required: it will be
        if disjoint_at(name, one, other, flatten):
            yield replace(one, objects=(*one.objects, {"required": [name]}))
    for part in other.objects:
        for name in part.get("required", []):
            yield one.merged_with(Flat(objects=({"properties": {name: False}},)))
        if "additionalProperties" in part and "patternProperties" not in part:
            for name in (name for name in ours if name not in part.get("properties", {})):
                yield with_member(one, name, part["additionalProperties"])
    for part in other.objects:
        for name, schema in part.get("properties", {}).items():
            yield with_member(one, name, schema)


def with_member(one: Flat, name: str, schema: Schema) -> Flat | None:
    """With a member of this name that is not valid under the schema."""
    return one.merged_with(Flat(objects=({"properties": {name: {"not": schema}}, "required": [name], ADDED: True},)))
