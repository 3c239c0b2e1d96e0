"""Random JSON Schemas of several drafts, with most keywords and in combinations that nobody would write."""

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
PIECES = ("a", "[a-f]", r"\d", r"\w", ".", r"\s", "[^a-z]", "-", "é", r"\.", "(?:ab|c)", "(x|yz)", '"', r"\\", "[A-Z0-9_]", "[^ks]")
NAMES = ("a", "b", "c", "name", "id", 'qu"ote', "back\\slash", "é😀", "", "x-y", "\n")

MANY = ("properties", "patternProperties", "dependentSchemas", "$defs")
SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems")
SINGLE = (
    *("items", "contains", "additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties"),
    *("not", "if", "then", "else"),
)
DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_4 = "http://json-schema.org/draft-04/schema#"

integers = st.integers(-1100, 1100) | st.sampled_from([-(2**53), 2**31 - 1, 2**53, 2**60, 0, 1])
numbers = (
    integers
    | st.floats(-2000, 2000).map(lambda number: round(number, 3))
    | st.sampled_from([0.1, 1e-7, -0.5, 1.0, 1e15, 1e23, 1e100])
)
texts = st.text(max_size=8) | st.sampled_from(NAMES)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5)
names = st.sampled_from(NAMES) | texts


@st.composite
def regexes(draw: DrawFn) -> str:
    """A regular expression that Python and ECMA read alike, but for the flag i."""
    suffix = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,3}", "{2,}"])
    pieces = draw(st.lists(st.tuples(st.sampled_from(PIECES), suffix), min_size=1, max_size=4))
    regex = draw(st.sampled_from(["", "^"])) + "".join(piece + times for piece, times in pieces) + draw(st.sampled_from(["", "$"]))
    return regex if draw(st.integers(0, 5)) else f"(?i:{regex})"


def optional(draw: DrawFn, **keywords: SearchStrategy[Any]) -> dict[str, Any]:
    """Each keyword with a chance of a third."""
    return {keyword: draw(value) for keyword, value in keywords.items() if draw(st.integers(0, 2)) == 0}


def ordered(draw: DrawFn, low: str, high: str, bounds: SearchStrategy[Any], chance: int = 2) -> dict[str, Any]:
    """Two bounds, each with some chance, mostly not in conflict."""
    found = {keyword: draw(bounds) for keyword in (low, high) if draw(st.integers(0, chance)) == 0}
    if len(found) == 2 and found[low] > found[high] and draw(st.integers(0, 9)):
        found[low], found[high] = found[high], found[low]
    return found


def typed(draw: DrawFn, *names: str) -> dict[str, Any]:
    """Mostly one of the types, or none, so that the keywords imply it."""
    return {"type": draw(st.sampled_from(names))} if draw(st.integers(0, 7)) else {}


@st.composite
def strings(draw: DrawFn) -> Schema:
    found = {**typed(draw, "string"), **ordered(draw, "minLength", "maxLength", st.integers(0, 60))}
    choice = draw(st.integers(0, 5))
    return {
        **found,
        **({"pattern": draw(regexes())} if choice == 0 else {"format": draw(st.sampled_from(FORMATS))} if choice == 1 else {}),
    }


@st.composite
def numeric(draw: DrawFn) -> Schema:
    found = typed(draw, "integer", "number")
    bounds = ordered(draw, "minimum", "maximum", numbers)
    bounds |= ordered(draw, "exclusiveMinimum", "exclusiveMaximum", numbers, 5)
    step = st.sampled_from([1, 2, 3, 7, 10, 25, 100, 5000, 0.5, 0.1, 0.01, 1.5, 1e-3])
    return {**found, **bounds, **({"multipleOf": draw(step)} if draw(st.integers(0, 4)) == 0 else {})}


@st.composite
def arrays(draw: DrawFn, inner: SearchStrategy[Schema]) -> Schema:
    found = {**typed(draw, "array"), **ordered(draw, "minItems", "maxItems", st.integers(0, 6))}
    found |= {"items": draw(inner)} if draw(st.integers(0, 3)) else {}
    found |= {"prefixItems": draw(st.lists(inner, min_size=1, max_size=3))} if draw(st.integers(0, 4)) == 0 else {}
    found |= {"contains": draw(inner)} if draw(st.integers(0, 6)) == 0 else {}
    found |= ordered(draw, "minContains", "maxContains", st.integers(0, 3)) if "contains" in found else {}
    found |= {"unevaluatedItems": draw(st.booleans())} if draw(st.integers(0, 6)) == 0 else {}
    return {**found, **({"uniqueItems": draw(st.booleans())} if draw(st.integers(0, 4)) == 0 else {})}


@st.composite
def objects(draw: DrawFn, inner: SearchStrategy[Schema]) -> Schema:
    found: dict[str, Any] = {**typed(draw, "object"), "properties": draw(st.dictionaries(names, inner, max_size=5))}
    known = list(found["properties"]) or ["a"]
    some = st.lists(st.sampled_from(known), max_size=4, unique=True)
    any_name = st.sampled_from([*known, *"abc"])
    found |= {"required": draw(some if draw(st.integers(0, 4)) else st.lists(names, max_size=3, unique=True))}
    found |= ordered(draw, "minProperties", "maxProperties", st.integers(0, 6), 4)
    rare: dict[str, SearchStrategy[Any]] = {
        "additionalProperties": inner | st.booleans(),
        "patternProperties": st.dictionaries(regexes(), inner, min_size=1, max_size=2),
        "propertyNames": strings() | st.builds(dict, enum=st.lists(names, min_size=1, max_size=4)),
        "dependentRequired": st.dictionaries(any_name, st.lists(any_name, max_size=3, unique=True), max_size=2),
        "dependentSchemas": st.dictionaries(any_name, inner, max_size=4),
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
def draft_4_bounds(draw: DrawFn) -> dict[str, Any]:
    exclusive = optional(draw, exclusiveMinimum=st.booleans(), exclusiveMaximum=st.booleans())
    return {
        **typed(draw, "integer", "number"),
        **ordered(draw, "minimum", "maximum", st.integers(-9, 9) | st.just(2.5)),
        **exclusive,
    }


@st.composite
def draft_4(draw: DrawFn) -> Schema:
    """Numbers with the boolean bounds of draft 4."""
    several = st.lists(draft_4_bounds(), min_size=1, max_size=2)
    listed = {"enum": st.lists(st.integers(-9, 9), min_size=5)}
    combined = optional(draw, **listed, **{"not": draft_4_bounds(), "allOf": several, "anyOf": several, "oneOf": several})
    return {"$schema": DRAFT_4, **draw(draft_4_bounds()), **combined}


def rewritten(schema: Any, draft: str) -> Any:
    """A schema in the words of an older draft: `items` as a list, and for draft 7 `dependencies`, and references on their own."""
    if isinstance(schema, bool):
        return schema
    found = dict(schema)
    for keyword in found:
        if keyword in MANY:
            found[keyword] = {name: rewritten(one, draft) for name, one in found[keyword].items()}
        elif keyword in SEVERAL:
            found[keyword] = [rewritten(one, draft) for one in found[keyword]]
        elif keyword in SINGLE:
            found[keyword] = rewritten(found[keyword], draft)
    if "prefixItems" in found:
        rest = {"additionalItems": found["items"]} if "items" in found else {}
        found |= {"items": found.pop("prefixItems"), **rest}
    if draft == DRAFT_7:
        dependencies = {**found.pop("dependentRequired", {}), **found.pop("dependentSchemas", {})}
        found |= {"dependencies": dependencies} if dependencies else {}
        found = {
            one: found[one] for one in found if not one.startswith("unevaluated") and one not in ("minContains", "maxContains")
        }
        if "$ref" in found:
            found = {"allOf": [{"$ref": found.pop("$ref")}, *found.pop("allOf", [])], **found}
    return found


@st.composite
def schemas(draw: DrawFn) -> Schema:
    """A schema, some with references, some of older drafts."""
    draft = draw(st.sampled_from([None, None, None, DRAFT_2019, DRAFT_7, DRAFT_4]))
    if draft == DRAFT_4:
        return draw(draft_4())
    root = draw(latest())
    return root if draft is None or isinstance(root, bool) else {"$schema": draft, **rewritten(root, draft)}


@st.composite
def latest(draw: DrawFn) -> Schema:
    """A schema of draft 2020-12, some with references."""
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
