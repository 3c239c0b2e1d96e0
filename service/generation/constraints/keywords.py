"""The shape of each keyword's value, and the keywords that are refused."""

from service.generation.constraints.document import Json, at
from service.generation.constraints.pattern import UnsupportedConstraint
from service.generation.constraints.values import is_integer, is_number

SCHEMAS = (
    "additionalProperties",
    "additionalItems",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
)
LISTS = ("prefixItems", "allOf", "anyOf", "oneOf")
MAPS = ("properties", "patternProperties", "dependentSchemas")
COUNTS = (
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("minContains", "maxContains"),
)
STRINGS = ("pattern", "format", "$ref")
NUMBERS = ("minimum", "maximum")
REFUSED = ("$dynamicRef", "$recursiveRef")


def check(schema: Json, where: str) -> None:
    """Raises UnsupportedConstraint for what is no schema, and for keywords that are not supported. Looks at one level only."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise UnsupportedConstraint(f"{at(where)}a schema is an object or a boolean, not {str(schema)[:50]!r}")
    for keyword in REFUSED:
        if keyword in schema:
            raise UnsupportedConstraint(f"{f'{where}.' if where else ''}{keyword} is not supported")
    for keyword, value in schema.items():
        if wanted := fault(keyword, value):
            raise UnsupportedConstraint(f"{f'{where}.' if where else ''}{keyword} is not {wanted}")


def fault(keyword: str, value: Json) -> str | None:
    """What the keyword's value should have been, or None where it is."""
    if keyword in SCHEMAS:
        return None if schema(value) else "a schema"
    if keyword in LISTS:
        return None if isinstance(value, list) and value and all(schema(one) for one in value) else "a list of schemas"
    if keyword == "items":
        return None if schema(value) or (isinstance(value, list) and all(schema(one) for one in value)) else "a schema"
    if keyword in MAPS:
        return None if isinstance(value, dict) and all(schema(one) for one in value.values()) else "an object of schemas"
    if keyword in COUNTS:
        return None if is_integer(value) and value >= 0 else "a count"
    if keyword in NUMBERS:
        return None if is_number(value) else "a number"
    if keyword in ("exclusiveMinimum", "exclusiveMaximum"):  # a boolean in draft 4
        return None if is_number(value) or isinstance(value, bool) else "a number"
    if keyword == "multipleOf":
        return None if is_number(value) and value > 0 else "a number above 0"
    if keyword == "required":
        return None if names(value) else "a list of names"
    if keyword == "dependentRequired":
        return None if isinstance(value, dict) and all(names(one) for one in value.values()) else "an object of lists of names"
    if keyword == "dependencies":
        ok = isinstance(value, dict) and all(schema(one) or names(one) for one in value.values())
        return None if ok else "an object of schemas or lists of names"
    if keyword in STRINGS:
        return None if isinstance(value, str) else "a string"
    return "a list" if keyword == "enum" and not isinstance(value, list) else None


def schema(value: Json) -> bool:
    return isinstance(value, dict | bool)


def names(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
