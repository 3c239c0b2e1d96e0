"""Replaces references and combinations by a list of flat schemas, of which a value has to fit one."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice

from service.generation.constraints import keywords
from service.generation.constraints.document import Document, Json, Place, Schema, at
from service.generation.constraints.excluding import ADDED, apart, unlike
from service.generation.constraints.flat import Flat, flat
from service.generation.constraints.pattern import Hopeless, TooLarge, UnsupportedConstraint
from service.generation.constraints.validity import Validity

MAX_BRANCHES = 400


class Branches:
    """Flattens the schemas of one document.

    Every value of a flat schema is valid under the schema that it comes from, but not all values are there. A reference is followed
    `recursion` times at most within itself. Of what `not` and `oneOf` leave, a part is kept.
    """

    def __init__(self, document: Document, recursion: int, possible: Callable[[Flat, Place], bool]) -> None:
        """`possible`: whether any text can be written for a flat schema."""
        self.document = document
        self.recursion = recursion
        self.possible = possible
        self.validity = Validity(document, formats=False)
        self._loose: dict[int, tuple[Schema, list[Flat]]] = {}  # by a schema's id; the schema is kept

    def of(self, schema: Schema, place: Place, opened: tuple[str, ...] = ()) -> list[Flat]:
        """The flat schemas. `opened`: references followed on the way here from the same value."""
        self.document.spend(place.path)
        keywords.check(schema, place.path)
        if isinstance(schema, bool):
            return [Flat()] if schema else []
        found = [flat(schema, place.path)]
        if isinstance(tag := schema.get("discriminator"), dict) and isinstance(tag.get("propertyName"), str):
            # Pydantic chooses a model by this member, though its schema does not always require it.
            found = self._both(found, [Flat(objects=({"required": [tag["propertyName"]]},))])
        if "$ref" in schema:
            found = self._both(found, self._referred(schema["$ref"], place, opened))
        for part in schema.get("allOf", []):
            found = self._both(found, self.of(part, place, opened))
        if "anyOf" in schema:
            found = self._both(found, self._any([partial(self.of, part, place, opened) for part in preferred(schema["anyOf"])]))
        if "oneOf" in schema:
            found = self._one(found, schema["oneOf"], place, opened)
        if "if" in schema:
            found = self._conditional(found, schema, place, opened)
        found = self._dependent(found, schema, place, opened)
        if isinstance(denied := schema.get("not"), dict) and denied.keys() == {"not"}:
            found = self._both(found, self.of(denied["not"], place, opened))
        elif "not" in schema:
            found = self._excluded(found, schema["not"], place.named("not"), place)
        if "unevaluatedProperties" in schema:
            found = [closed(one, schema["unevaluatedProperties"]) for one in found]
        if "unevaluatedItems" in schema:
            found = [closed_items(one, schema["unevaluatedItems"]) for one in found]
        return found

    def _referred(self, reference: Json, place: Place, opened: tuple[str, ...]) -> list[Flat]:
        target = self.document.resolve(reference, place.path)
        if reference in opened:
            raise Hopeless(f"{at(place.path)}$ref {reference!r} refers to itself without end")
        if place.references.count(reference) >= self.recursion:
            raise UnsupportedConstraint(f"{at(place.path)}$ref {reference!r} never ends")
        found = self.of(target, place, (*opened, reference))
        return [replace(one, references=one.references | {reference}) for one in found]

    def _both(self, left: list[Flat], right: list[Flat]) -> list[Flat]:
        if len(left) * len(right) > MAX_BRANCHES:
            raise TooLarge(f"a schema has more than {MAX_BRANCHES} combinations of alternatives")
        return [both for one in left for other in right if (both := one.but(other)) is not None]

    @staticmethod
    def _any(ways: list[Callable[[], list[Flat]]]) -> list[Flat]:
        """What any of the ways gives. Raises what the first one raised where no way gives anything."""
        found: list[Flat] = []
        errors = []
        for way in ways:
            try:
                found += way()
            except Hopeless:
                raise
            except UnsupportedConstraint as error:
                errors.append(error)
        if errors and not found:
            raise errors[0]
        return found

    def _one(self, found: list[Flat], options: list[Schema], place: Place, opened: tuple[str, ...]) -> list[Flat]:
        """With each option, without the values of all others."""

        def only(chosen: int) -> list[Flat]:
            both = self._both(found, self.of(options[chosen], place, opened))
            for i, other in enumerate(options):
                if i != chosen:
                    both = self._excluded(both, other, place.named("oneOf"), place)
            return both

        return self._any([partial(only, i) for i in range(len(options))])

    def _conditional(self, found: list[Flat], schema: Mapping[str, Json], place: Place, opened: tuple[str, ...]) -> list[Flat]:
        """Values under `if` and `then`, and those under `else` and not under `if`."""

        def fulfilled() -> list[Flat]:
            both = self._both(found, self.of(schema["if"], place, opened))
            return self._both(both, self.of(schema.get("then", True), place, opened))

        def otherwise() -> list[Flat]:
            both = self._both(found, self.of(schema.get("else", True), place, opened))
            return self._excluded(both, schema["if"], place.named("if"), place)

        return self._any([fulfilled, otherwise])

    def _dependent(self, found: list[Flat], schema: Mapping[str, Json], place: Place, opened: tuple[str, ...]) -> list[Flat]:
        """A member that brings its own schema: either that schema holds, or the member is absent."""
        dependent = {**schema.get("dependencies", {}), **schema.get("dependentSchemas", {})}
        for name, part in dependent.items():
            if isinstance(part, list):
                continue

            def holds(part: Schema = part, found: list[Flat] = found) -> list[Flat]:
                return self._both(found, self.of(part, place, opened))

            def absent(name: str = name, found: list[Flat] = found) -> list[Flat]:
                return self._both(found, [Flat(objects=({"properties": {name: False}},))])

            found = self._any([holds, absent])
        return found

    def _excluded(self, found: list[Flat], schema: Schema, keyword: str, place: Place) -> list[Flat]:
        """Values of the flat schemas that are surely not valid under `schema`."""
        keywords.check(schema, keyword)
        others = self.loosely(schema, place)
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
                if apart(each, other, lambda part: self.loosely(part, place)):
                    following.append(each)
                    continue
                for options in unlike(each, other, schema, lambda part: self.loosely(part, place)):
                    following += islice((option for option in options if self.possible(option, place)), 1)
            kept = following
        return kept

    def loosely(self, schema: Schema, place: Place, opened: tuple[str, ...] = ()) -> list[Flat]:
        """Flat schemas that together hold every value of the schema, and maybe others."""
        if not opened and id(schema) in self._loose:
            return self._loose[id(schema)][1]
        found = self._loosely(schema, place, opened)
        if not opened:
            self._loose[id(schema)] = schema, found
        return found

    def _loosely(self, schema: Schema, place: Place, opened: tuple[str, ...]) -> list[Flat]:
        self.document.spend(place.path)
        keywords.check(schema, place.path)
        if isinstance(schema, bool):
            return [Flat()] if schema else []
        found = [flat(schema, place.path)]
        parts = [[part] for part in schema.get("allOf", [])]
        parts += [schema[keyword] for keyword in ("anyOf", "oneOf") if keyword in schema]
        reference = schema.get("$ref")
        if reference is not None and reference not in opened:
            parts.append([self.document.resolve(reference, place.path)])
            opened = (*opened, reference)
        for options in parts:
            found = self._both(found, [one for option in options for one in self.loosely(option, place, opened)])
        return found


def preferred(options: list[Schema]) -> list[Schema]:
    """The options without the string of number or string: pydantic writes so for a Decimal, and accepts few strings for it."""
    plain = {"type": "string"}
    return [one for one in options if one != plain] if plain in options and {"type": "number"} in options else options


def closed(one: Flat, rest: Schema) -> Flat:
    """With `unevaluatedProperties`: a member that no part of the flat schema names is valid under `rest`."""
    if any("additionalProperties" in part for part in one.objects):
        return one
    parts = [part for part in one.objects if ADDED not in part]
    known = {
        keyword: {name: True for part in parts for name in part.get(keyword, {})} for keyword in ("properties", "patternProperties")
    }
    return replace(one, objects=(*one.objects, {**known, "additionalProperties": rest}))


def closed_items(one: Flat, rest: Schema) -> Flat:
    """With `unevaluatedItems`: an item that no part of the flat schema speaks of is valid under `rest`."""
    if any("items" in part for part in one.arrays):
        return one
    known = max((len(part.get("prefixItems", [])) for part in one.arrays), default=0)
    return replace(one, arrays=(*one.arrays, {"prefixItems": [True] * known, "items": rest}))
