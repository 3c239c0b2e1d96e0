"""Whether a value is valid under a schema. Decides which values of an enumeration remain, and which texts a schema excludes."""

from collections.abc import Hashable, Mapping
from itertools import chain
from math import inf

from service.generation.constraints import keywords
from service.generation.constraints.document import Document, Json, Schema, at
from service.generation.constraints.flat import limits_of, named_types
from service.generation.constraints.pattern import UnsupportedConstraint, searches
from service.generation.constraints.string_schema import is_format
from service.generation.constraints.values import exact, identity, is_number, is_type

UNEVALUATED = ("unevaluatedItems", "unevaluatedProperties")


class Validity:
    """Validates values under parts of one document. `formats`: whether a text must be of its format, as some validators want."""

    def __init__(self, document: Document, formats: bool) -> None:
        self.document = document
        self.formats = formats
        self._known: dict[int, tuple[list[Json], set[Hashable]]] = {}  # by a list's id; the list is kept

    def valid(self, value: Json, schema: Schema, where: str = "") -> bool:
        """Raises UnsupportedConstraint where it cannot tell."""
        keywords.check(schema, where)
        if isinstance(schema, bool):
            return schema
        self.document.spend(where)
        for keyword in UNEVALUATED:
            if keyword in schema:
                raise UnsupportedConstraint(f"{at(where)}{keyword} is not supported")
        return (
            self._itself(value, schema, where)
            and self._number(value, schema)
            and self._string(value, schema)
            and (not isinstance(value, list) or self._array(value, schema, where))
            and (not isinstance(value, dict) or self._object(value, schema, where))
            and self._combined(value, schema, where)
        )

    def _itself(self, value: Json, schema: Mapping[str, Json], where: str) -> bool:
        named = named_types(schema, where)
        return (
            (named is None or any(is_type(value, name) for name in named))
            and ("enum" not in schema or identity(value) in self._identities(schema["enum"]))
            and ("const" not in schema or identity(value) == identity(schema["const"]))
        )

    def _identities(self, values: list[Json]) -> set[Hashable]:
        if id(values) not in self._known:
            self._known[id(values)] = values, {identity(one) for one in values}
        return self._known[id(values)][1]

    @staticmethod
    def _number(value: Json, schema: Mapping[str, Json]) -> bool:
        if not is_number(value):
            return True
        number, limits = exact(value), limits_of(schema)
        return (
            limits.get("minimum", -inf) <= number <= limits.get("maximum", inf)
            and limits.get("exclusiveMinimum", -inf) < number < limits.get("exclusiveMaximum", inf)
            and ("multipleOf" not in schema or is_multiple(value, schema["multipleOf"]))
        )

    def _string(self, value: Json, schema: Mapping[str, Json]) -> bool:
        if not isinstance(value, str):
            return True
        return (
            schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", inf)
            and ("pattern" not in schema or searches(schema["pattern"], value))
            and (not self.formats or "format" not in schema or is_format(value, schema["format"]))
        )

    def _array(self, value: list[Json], schema: Mapping[str, Json], where: str) -> bool:
        prefix, rest = item_schemas(schema)
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", inf):
            return False
        if schema.get("uniqueItems") and len({identity(one) for one in value}) < len(value):
            return False
        if "contains" in schema:
            found = sum(self.valid(one, schema["contains"], where) for one in value)
            if not schema.get("minContains", 1) <= found <= schema.get("maxContains", inf):
                return False
        return all(self.valid(one, prefix[i] if i < len(prefix) else rest, f"{where}.items") for i, one in enumerate(value))

    def _object(self, value: dict[str, Json], schema: Mapping[str, Json], where: str) -> bool:
        if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", inf):
            return False
        if not all(name in value for name in schema.get("required", [])):
            return False
        older = schema.get("dependencies", {}).items()
        for name, needed in chain(older, schema.get("dependentRequired", {}).items()):
            if name in value and isinstance(needed, list) and not all(one in value for one in needed):
                return False
        for name, dependent in chain(older, schema.get("dependentSchemas", {}).items()):
            if name in value and not isinstance(dependent, list) and not self.valid(value, dependent, where):
                return False
        return all(
            self.valid(name, schema.get("propertyNames", True), where)
            and all(self.valid(member, one, f"{where}.{name}") for one in member_schemas(schema, name))
            for name, member in value.items()
        )

    def _combined(self, value: Json, schema: Mapping[str, Json], where: str) -> bool:
        def valid(part: Schema) -> bool:
            return self.valid(value, part, where)

        if "if" in schema and not valid(schema.get("then" if valid(schema["if"]) else "else", True)):
            return False
        return (
            ("$ref" not in schema or valid(self.document.resolve(schema["$ref"], where)))
            and all(valid(part) for part in schema.get("allOf", []))
            and ("anyOf" not in schema or any(valid(part) for part in schema["anyOf"]))
            and ("oneOf" not in schema or sum(valid(part) for part in schema["oneOf"]) == 1)
            and ("not" not in schema or not valid(schema["not"]))
        )


def is_multiple(value: float, step: float) -> bool:
    """Exactly, and for validators that divide floats too."""
    if exact(value) % exact(step):
        return False
    try:
        return (isinstance(value, int) and isinstance(step, int)) or (value / step).is_integer()
    except OverflowError:
        return False


def item_schemas(schema: Mapping[str, Json]) -> tuple[list[Schema], Schema]:
    """The schemas of the first items, and that of all others. `items` may be a list, as in older drafts."""
    items = schema.get("items", True)
    if isinstance(items, list):
        return items, schema.get("additionalItems", True)
    return list(schema.get("prefixItems", [])), items


def member_schemas(schema: Mapping[str, Json], name: str) -> list[Schema]:
    """All schemas that the member of this name is valid under."""
    found = [schema["properties"][name]] if name in schema.get("properties", {}) else []
    found += [one for pattern, one in schema.get("patternProperties", {}).items() if searches(pattern, name)]
    return found or [schema.get("additionalProperties", True)]
