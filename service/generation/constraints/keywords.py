"""The shape of each keyword's value, and the keywords that are refused."""

from collections.abc import Callable

from service.generation.constraints.document import Json, at
from service.generation.constraints.pattern import Fatal, UnsupportedConstraint, syntax_tree
from service.generation.constraints.values import is_integer, is_number


def is_schema(value: Json) -> bool:
    return isinstance(value, dict | bool)


def is_string(value: Json) -> bool:
    return isinstance(value, str)


def are_schemas(value: Json) -> bool:
    return isinstance(value, list) and all(map(is_schema, value))


def are_names(value: Json) -> bool:
    return isinstance(value, list) and all(map(is_string, value))


def members(*checks: Callable[[Json], bool]) -> Callable[[Json], bool]:
    """Whether a value is an object whose every member passes one of the checks."""
    return lambda value: isinstance(value, dict) and all(any(check(one) for check in checks) for one in value.values())


SUPPORTED = "supported"

SHAPES: tuple[tuple[str, Callable[[Json], bool], str], ...] = (  # keywords, whether the value is one of these, what these are
    ("additionalProperties additionalItems contains propertyNames not if then else", is_schema, "a schema"),
    ("unevaluatedItems unevaluatedProperties", is_schema, "a schema"),
    ("items", lambda value: is_schema(value) or are_schemas(value), "a schema"),
    ("prefixItems allOf anyOf oneOf", lambda value: value != [] and are_schemas(value), "a list of schemas"),
    ("properties patternProperties dependentSchemas", members(is_schema), "an object of schemas"),
    ("dependentRequired", members(are_names), "an object of lists of names"),
    ("dependencies", members(is_schema, are_names), "an object of schemas or lists of names"),
    ("minLength maxLength minItems maxItems", lambda value: is_integer(value) and value >= 0, "a count"),
    ("minProperties maxProperties minContains maxContains", lambda value: is_integer(value) and value >= 0, "a count"),
    ("minimum maximum", is_number, "a number"),
    ("exclusiveMinimum exclusiveMaximum", lambda value: is_number(value) or isinstance(value, bool), "a number"),  # draft 4: bool
    ("multipleOf", lambda value: is_number(value) and value > 0, "a number above 0"),
    ("required", are_names, "a list of names"),
    ("pattern format $ref", is_string, "a string"),
    ("enum", lambda value: isinstance(value, list), "a list"),
    ("$dynamicRef $recursiveRef", lambda _: False, SUPPORTED),
)
SHAPE = {keyword: (fits, wanted) for keywords, fits, wanted in SHAPES for keyword in keywords.split()}


def check(schema: Json, where: str) -> None:
    """Raises Fatal for an invalid schema, and UnsupportedConstraint for unsupported keywords. Checks one level only."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise Fatal(f"{at(where)}a schema is an object or a boolean, not {str(schema)[:50]!r}")
    for keyword, value in schema.items():
        fits, wanted = SHAPE.get(keyword, (None, ""))
        if fits is not None and not fits(value):
            refusal = UnsupportedConstraint if wanted == SUPPORTED else Fatal
            raise refusal(f"{f'{where}.' if where else ''}{keyword} is not {wanted}")
    for regex in (*([schema["pattern"]] if "pattern" in schema else ()), *schema.get("patternProperties", ())):
        try:
            syntax_tree(regex)
        except Fatal as error:
            raise Fatal(f"{at(where)}{error}") from None
        except UnsupportedConstraint:
            continue  # refused only where a text has to match it
