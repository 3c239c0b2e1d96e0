"""Replaces references and combinations by a list of flat schemas, of which a value has to fit one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice

from service.generation.constraints import keywords
from service.generation.constraints.document import Document, Json, Place, Schema, at, attempts, subschemas
from service.generation.constraints.excluding import ADDED, difference, disjoint
from service.generation.constraints.flat import Flat, own_keywords
from service.generation.constraints.pattern import Fatal, TooLarge, UnsupportedConstraint
from service.generation.constraints.validity import UNEVALUATED, Validity, item_schemas

MAX_BRANCHES = 400

Way = tuple[Schema, list[Schema]]  # a schema under which a value is valid, and schemas under which it is not


class Branches:
    """Flattens the schemas of one document.

    Every value of a flat schema is valid under the schema that it comes from. Not every valid value fits a flat schema: a reference
    is followed at most `recursion` times within itself, and `not` and `oneOf` are under-approximated.
    """

    def __init__(self, document: Document, recursion: int, validity: Validity, possible: Callable[[Flat, Place], bool]) -> None:
        """`validity`: ignores formats; `possible`: whether any text can be written for a flat schema."""
        self.document = document
        self.recursion = recursion
        self.validity = validity
        self.possible = possible
        self.unevaluated = any(keyword in part for part in subschemas(document.root) for keyword in UNEVALUATED)
        # Draft 2019-09 has `unevaluatedItems` too, but items that match `contains` stay unevaluated there.
        self.contains_evaluates = not (isinstance(document.root, dict) and "2019-09" in str(document.root.get("$schema")))
        self._supersets: dict[int, tuple[Schema, list[Flat]]] = {}  # by a schema's id; the schema is kept

    def of(self, schema: Schema, place: Place, given: list[Flat] | None = None, opened: tuple[str, ...] = ()) -> list[Flat]:
        """The flat schemas. `given`: those that hold as well; `opened`: references followed on the way here from the same value."""
        self.document.spend(place.path)
        keywords.check(schema, place.path)
        if isinstance(schema, bool):
            return self._both(given, [Flat()] if schema else [])
        if rest := {one: schema[one] for one in UNEVALUATED if one in schema}:  # about what this schema alone has evaluated
            own = self.of({one: schema[one] for one in schema if one not in rest}, place, opened=opened)
            return self._both(given, [closed(one, rest, self.contains_evaluates) for one in own])
        found = self._both(given, [own_keywords(schema, place.path)])
        if "$ref" in schema:
            found = self._referred(schema["$ref"], place, found, opened)
        for part in schema.get("allOf", []):
            found = self.of(part, place, found, opened)
        for keyword, ways in combinations(schema, self.unevaluated):
            lists, errors = attempts([partial(self._way, found, place, opened, place.named(keyword), *way) for way in ways])
            found = [one for flats in lists for one in flats]
            if errors and not found:
                raise errors[0]
        return found

    def _way(
        self, found: list[Flat], place: Place, opened: tuple[str, ...], keyword: str, part: Schema, others: list[Schema]
    ) -> list[Flat]:
        """The flat schemas with the keywords of `part`, and without the values of the others."""
        found = self.of(part, place, found, opened)
        for other in others:
            found = self._excluded(found, other, keyword, place)
        return found

    def _referred(self, reference: Json, place: Place, found: list[Flat], opened: tuple[str, ...]) -> list[Flat]:
        target = self.document.resolve(reference, place.path)
        if reference in opened:
            raise Fatal(f"{at(place.path)}$ref {reference!r} refers to itself without end")
        if place.references.count(reference) >= self.recursion:
            raise UnsupportedConstraint(f"{at(place.path)}$ref {reference!r} never ends")
        found = self.of(target, place, found, (*opened, reference))
        return [replace(one, references=one.references | {reference}) for one in found]

    def _both(self, left: list[Flat] | None, right: list[Flat]) -> list[Flat]:
        if left is None:
            return right
        if len(left) * len(right) > MAX_BRANCHES:
            raise TooLarge(f"a schema has more than {MAX_BRANCHES} combinations of alternatives")
        return [both for one in left for other in right if (both := one.merged_with(other)) is not None]

    def _excluded(self, found: list[Flat], schema: Schema, keyword: str, place: Place) -> list[Flat]:
        """Values of the flat schemas that are surely not valid under `schema`."""
        keywords.check(schema, keyword)
        others = self.superset(schema, place)
        kept: list[Flat] = []
        for one in found:
            if one.values is not None:
                values = tuple(value for value in one.values if not self.validity.valid(value, schema, keyword))
                kept += [replace(one, values=values)] if values else []
            else:
                kept += self._without(one, others, schema, place)
        if found and not kept:
            raise UnsupportedConstraint(f"{keyword} excludes everything, or too much to tell")
        return kept

    def _without(self, one: Flat, others: list[Flat], schema: Schema, place: Place) -> list[Flat]:
        kept = [one]
        for other in others:
            following: list[Flat] = []
            for each in kept:
                self.document.spend(place.path)
                if disjoint(each, other, lambda part: self.superset(part, place)):
                    following.append(each)
                    continue
                for options in difference(each, other, schema, lambda part: self.superset(part, place)):
                    following += islice((left for left in options if left is not None and self.possible(left, place)), 1)
            kept = following
        return kept

    def superset(self, schema: Schema, place: Place, opened: tuple[str, ...] = ()) -> list[Flat]:
        """Flat schemas that together hold every value of the schema: an over-approximation, used only to exclude."""
        if not opened and id(schema) in self._supersets:
            return self._supersets[id(schema)][1]
        found = self._superset(schema, place, opened)
        if not opened:
            self._supersets[id(schema)] = schema, found
        return found

    def _superset(self, schema: Schema, place: Place, opened: tuple[str, ...]) -> list[Flat]:
        self.document.spend(place.path)
        keywords.check(schema, place.path)
        if isinstance(schema, bool):
            return [Flat()] if schema else []
        found = [own_keywords(schema, place.path)]
        parts = [[part] for part in schema.get("allOf", [])]
        parts += [schema[keyword] for keyword in ("anyOf", "oneOf") if keyword in schema]
        reference = schema.get("$ref")
        if reference is not None and reference not in opened:
            parts.append([self.document.resolve(reference, place.path)])
            opened = (*opened, reference)
        for options in parts:
            found = self._both(found, [one for option in options for one in self.superset(option, place, opened)])
        return found


def combinations(schema: Mapping[str, Json], applied: bool) -> Iterator[tuple[str, list[Way]]]:
    """By keyword: alternatives, of which a value has to fulfil one. `applied`: as for `dependent_ways`."""
    if isinstance(tag := schema.get("discriminator"), dict) and isinstance(tag.get("propertyName"), str):
        # Pydantic chooses a model by this member, though its schema does not always require it.
        yield "discriminator", [({"required": [tag["propertyName"]]}, [])]
    if "anyOf" in schema:
        yield "anyOf", [(part, []) for part in preferred(schema["anyOf"])]
    if "oneOf" in schema:
        options = schema["oneOf"]
        yield "oneOf", [(part, options[:i] + options[i + 1 :]) for i, part in enumerate(options)]
    if "if" in schema:
        yield "if", [({"allOf": [schema["if"], schema.get("then", True)]}, []), (schema.get("else", True), [schema["if"]])]
    dependent = {name: part for name, part in schema.get("dependencies", {}).items() if not isinstance(part, list)}
    for name, part in schema.get("dependentSchemas", {}).items():
        dependent[name] = {"allOf": [dependent[name], part]} if name in dependent else part
    if dependent:
        yield "dependentSchemas", [(way, []) for way in dependent_ways(dependent, schema.get("required", []), applied)]
    if isinstance(denied := schema.get("not"), dict) and denied.keys() == {"not"}:
        yield "not", [(denied["not"], [])]
    elif "not" in schema:
        yield "not", [(True, [schema["not"]])]


def dependent_ways(dependent: Mapping[str, Schema], required: list[str], applied: bool) -> Iterator[Schema]:
    """Ways to fulfil dependent schemas: all of them hold, or one does and the other names are absent, or all names are absent.

    With every combination of names there would be twice as many ways for each schema. `applied`: schemas hold only for objects that
    have their names, because `unevaluatedProperties` and `unevaluatedItems` depend on which schemas are applied.
    """
    names = [name for name in dependent if name not in required]
    others = [tuple(one for one in names if one != name) for name in names]
    for absent in dict.fromkeys([(), *others, tuple(names)]):
        present = [name for name in dependent if name not in absent]
        condition = {"type": "object", "required": present} if present and (absent or applied) else True
        yield {"allOf": [condition, *(dependent[name] for name in present)], "properties": dict.fromkeys(absent, False)}


def preferred(options: list[Schema]) -> list[Schema]:
    """Drops the string from a choice of number or string. Pydantic writes that choice for a Decimal, but accepts few strings."""
    plain = {"type": "string"}
    return [one for one in options if one != plain] if plain in options and {"type": "number"} in options else options


def closed(one: Flat, rest: Mapping[str, Schema], contains_evaluates: bool) -> Flat:
    """With `unevaluatedProperties` and `unevaluatedItems`, which apply to what no part of the flat schema has evaluated."""
    objects, arrays = ([part for part in parts if ADDED not in part] for parts in (one.objects, one.arrays))
    if "unevaluatedProperties" in rest and not any("additionalProperties" in part for part in objects):
        known = {
            keyword: {name: True for part in objects for name in part.get(keyword, {})}
            for keyword in ("properties", "patternProperties")
        }
        one = replace(one, objects=(*one.objects, {**known, "additionalProperties": rest["unevaluatedProperties"]}))
    if "unevaluatedItems" in rest and not any(rest_of_items(part) in part for part in arrays):
        first = max((len(item_schemas(part)[0]) for part in arrays), default=0)
        evaluated = [part["contains"] for part in arrays if "contains" in part and contains_evaluates]
        items = {"anyOf": [*evaluated, rest["unevaluatedItems"]]} if evaluated else rest["unevaluatedItems"]
        one = replace(one, arrays=(*one.arrays, {"prefixItems": [True] * first, "items": items}))
    return one


def rest_of_items(part: Mapping[str, Json]) -> str:
    """The keyword that evaluates all items but the first ones."""
    return "additionalItems" if isinstance(part.get("items"), list) else "items"
