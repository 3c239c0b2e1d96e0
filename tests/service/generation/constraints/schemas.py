"""Random JSON Schemas of draft 2020-12, with most keywords and in combinations that nobody would write."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

Schema = dict[str, Any] | bool

FORMATS = (
    "date-time",
    "date",
    "time",
    "email",
    "uri",
    "uuid",
    "ipv4",
    "ipv6",
    "hostname",
    "json-pointer",
    "regex",
    "duration",
    "other",
)
PIECES = ("a", "[a-f]", r"\d", r"\w", ".", r"\s", "[^a-z]", "-", "é", r"\.", "(?:ab|c)", "(x|yz)", '"', r"\\", "[A-Z0-9_]")
NAMES = ("a", "b", "c", "name", "id", 'qu"ote', "back\\slash", "é😀", "", "x-y", "\n")

integers = st.integers(-1100, 1100) | st.sampled_from([-(2**53), 2**31 - 1, 2**53, 0, 1])
numbers = integers | st.floats(-2000, 2000).map(lambda number: round(number, 3)) | st.sampled_from([0.1, 1e-7, -0.5, 1e15, 1e100])
texts = st.text(max_size=8) | st.sampled_from(NAMES)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5)
names = st.sampled_from(NAMES) | texts


@st.composite
def regexes(draw: DrawFn) -> str:
    """A regular expression that Python and ECMA read alike."""
    suffix = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,3}", "{2,}"])
    pieces = draw(st.lists(st.tuples(st.sampled_from(PIECES), suffix), min_size=1, max_size=4))
    return draw(st.sampled_from(["", "^"])) + "".join(piece + times for piece, times in pieces) + draw(st.sampled_from(["", "$"]))


def optional(draw: DrawFn, **keywords: SearchStrategy[Any]) -> dict[str, Any]:
    """Each keyword with a chance of a third."""
    return {keyword: draw(value) for keyword, value in keywords.items() if draw(st.integers(0, 2)) == 0}


def ordered(draw: DrawFn, low: str, high: str, bounds: SearchStrategy[Any], chance: int = 2) -> dict[str, Any]:
    """Two bounds, each with some chance, mostly not in conflict."""
    found = {keyword: draw(bounds) for keyword in (low, high) if draw(st.integers(0, chance)) == 0}
    if len(found) == 2 and found[low] > found[high] and draw(st.integers(0, 9)):
        found[low], found[high] = found[high], found[low]
    return found


@st.composite
def strings(draw: DrawFn) -> Schema:
    found = {"type": "string", **ordered(draw, "minLength", "maxLength", st.integers(0, 60))}
    choice = draw(st.integers(0, 5))
    return {
        **found,
        **({"pattern": draw(regexes())} if choice == 0 else {"format": draw(st.sampled_from(FORMATS))} if choice == 1 else {}),
    }


@st.composite
def numeric(draw: DrawFn) -> Schema:
    found = {"type": draw(st.sampled_from(["integer", "number"]))}
    bounds = ordered(draw, "minimum", "maximum", numbers)
    bounds |= ordered(draw, "exclusiveMinimum", "exclusiveMaximum", numbers, 5)
    step = st.sampled_from([1, 2, 3, 7, 10, 25, 100, 5000, 0.5, 0.1, 0.01, 1.5, 1e-3])
    return {**found, **bounds, **({"multipleOf": draw(step)} if draw(st.integers(0, 4)) == 0 else {})}


@st.composite
def arrays(draw: DrawFn, inner: SearchStrategy[Schema]) -> Schema:
    found = {"type": "array", **ordered(draw, "minItems", "maxItems", st.integers(0, 6))}
    found |= {"items": draw(inner)} if draw(st.integers(0, 3)) else {}
    found |= {"prefixItems": draw(st.lists(inner, min_size=1, max_size=3))} if draw(st.integers(0, 4)) == 0 else {}
    found |= {"contains": draw(inner)} if draw(st.integers(0, 6)) == 0 else {}
    found |= ordered(draw, "minContains", "maxContains", st.integers(0, 3)) if "contains" in found else {}
    return {**found, **({"uniqueItems": draw(st.booleans())} if draw(st.integers(0, 4)) == 0 else {})}


@st.composite
def objects(draw: DrawFn, inner: SearchStrategy[Schema]) -> Schema:
    found: dict[str, Any] = {"type": "object", "properties": draw(st.dictionaries(names, inner, max_size=5))}
    known = list(found["properties"]) or ["a"]
    some = st.lists(st.sampled_from(known), max_size=4, unique=True)
    found |= {"required": draw(some if draw(st.integers(0, 4)) else st.lists(names, max_size=3, unique=True))}
    found |= ordered(draw, "minProperties", "maxProperties", st.integers(0, 6), 4)
    rare: dict[str, SearchStrategy[Any]] = {
        "additionalProperties": inner | st.booleans(),
        "patternProperties": st.dictionaries(regexes(), inner, min_size=1, max_size=2),
        "propertyNames": strings() | st.builds(dict, enum=st.lists(names, min_size=1, max_size=4)),
        "dependentRequired": st.dictionaries(st.sampled_from(known), some, max_size=2),
        "dependentSchemas": st.dictionaries(st.sampled_from(known), inner, max_size=2),
        "unevaluatedProperties": st.booleans(),
    }
    found |= {keyword: draw(value) for keyword, value in rare.items() if draw(st.integers(0, 7)) == 0}
    return {keyword: value for keyword, value in found.items() if value not in ({}, [])}


@st.composite
def combinations(draw: DrawFn, inner: SearchStrategy[Schema]) -> Schema:
    keyword = draw(st.sampled_from(["anyOf", "oneOf", "allOf", "not", "if"]))
    base = draw(inner) if draw(st.integers(0, 2)) == 0 else {}
    base = base if isinstance(base, dict) else {}
    if keyword == "not":
        return {**base, "not": draw(inner)}
    if keyword == "if":
        return {**base, "if": draw(inner), **optional(draw, **{"then": inner, "else": inner})}
    return {**base, keyword: draw(st.lists(inner, min_size=1, max_size=3))}


def flat_schemas() -> SearchStrategy[Schema]:
    return st.one_of(
        *[strings(), numeric(), st.builds(dict), st.booleans()],
        st.sampled_from([{"type": "null"}, {"type": "boolean"}]),
        st.builds(dict, const=values),
        st.builds(dict, enum=st.lists(values, min_size=1, max_size=4)),
        st.builds(dict, type=st.lists(st.sampled_from(["string", "integer", "null", "array", "object"]), min_size=1, unique=True)),
    )


def nested_schemas(inner: SearchStrategy[Schema]) -> SearchStrategy[Schema]:
    return st.one_of(arrays(inner), objects(inner), combinations(inner))


@st.composite
def schemas(draw: DrawFn) -> Schema:
    """A schema, some with references."""
    inner = (
        flat_schemas() | st.sampled_from([{"$ref": "#/$defs/x"}, {"$ref": "#/$defs/y~1z"}, {"$ref": "#"}])
        if draw(st.booleans())
        else flat_schemas()
    )
    root = draw(st.recursive(inner, nested_schemas, max_leaves=8))
    if "$ref" not in str(root) or isinstance(root, bool):
        return root
    definitions = st.recursive(inner, nested_schemas, max_leaves=3)
    return {**root, "$defs": {"x": draw(definitions), "y/z": draw(definitions)}}
