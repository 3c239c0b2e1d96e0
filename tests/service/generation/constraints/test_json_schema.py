"""Scalars under each keyword: texts that their patterns match, and others that they do not. And what is refused."""

import json
from random import Random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from service.generation.constraints.json_schema import free_json_object, json_pattern
from service.generation.constraints.pattern import UnsupportedConstraint
from tests.service.generation.constraints.walks import SHAKESPEARE, Automaton, check, compiled, texts, whole

DRAFT_4 = {"$schema": "http://json-schema.org/draft-04/schema#"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "matching", "other"),
    [
        ({"type": "string"}, ['"a"', '"To be, or"', f'"{"x" * 41}"'], ['""', f'"{"x" * 42}"', r'"\n"', '"é"', '"5"', "1"]),
        ({"type": "string", "minLength": 0, "maxLength": 2}, ['"ab"', '"a"'], ['"abc"']),
        ({"type": "string", "maxLength": 0}, ['""'], ['"a"']),
        ({"type": "string", "minLength": 50}, [f'"{"a" * 50}"', f'"{"a" * 90}"'], [f'"{"a" * 49}"', f'"{"a" * 91}"']),
        ({"type": "string", "pattern": "^[a-c]{2}$"}, ['"ab"'], ['"a"', '"abc"']),
        ({"type": "string", "pattern": r"^\d+$", "minLength": 2, "maxLength": 3}, ['"12"', '"123"'], ['"1"', '"1234"']),
        ({"type": "string", "pattern": "b", "minLength": 3}, ['"aab"', '"xyb"'], ['"aaa"', '"b"']),
        ({"type": "string", "pattern": r'^["\\a]$'}, ['"a"'], ['"""', r'"\"']),
        ({"type": "string", "pattern": r'^"\\$'}, [r'"\"\\"'], [r'"\""']),
        ({"type": "string", "pattern": "^(?!a)[ab]$"}, ['"b"'], ['"a"']),
        ({"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}, [], ['"-."', '""']),
        ({"type": "string", "pattern": r"\bfoo\b"}, ['"foo"'], ['"fool"']),
        ({"enum": ["a", "a\n", "$", "[("], "pattern": r"^[a-z]$|[$]|[(?<]"}, ['"a"', '"$"', '"[("'], [r'"a\n"']),
        ({"enum": ["é", "e", "1"], "pattern": r"^(\w)(?<!\d)$"}, ['"e"'], ['"é"', '"1"']),
        ({"type": "string", "format": "date"}, ['"2026-11-27"'], ['"2026-13-01"', '"2026-02-30"']),
        ({"type": "string", "format": "uuid", "pattern": "^[0-9a-f]{8}-"}, [], ['"00000000"']),
        ({"type": "string", "format": "unheard-of"}, ['"a"'], []),
        ({"type": "integer"}, ["0", "7", "999"], ["1000", "-1", "01", "1.0", "1e2"]),
        ({"type": "integer", "minimum": -3, "maximum": 12}, ["-3", "0", "12"], ["-4", "13", "-0"]),
        ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 4}, ["2", "3"], ["1", "4"]),
        ({"type": "integer", "minimum": 0.5, "maximum": 2.5}, ["1", "2"], ["0", "3"]),
        ({"type": "integer", "minimum": 5000}, ["5000", "5999"], ["4999", "999"]),
        ({"type": "integer", "maximum": -5}, ["-5", "-6"], ["-4", "0", "5"]),
        ({"type": "integer", "minimum": -(2**53), "maximum": 2**53}, ["0", "999"], ["-1"]),
        ({"type": "integer", "minimum": -(2**53), "exclusiveMaximum": 0}, ["-1"], ["0"]),
        ({"type": "integer", "minimum": 0, "maximum": 10**12}, ["0", "999"], []),
        ({"type": "integer", "multipleOf": 7, "minimum": 50, "maximum": 70}, ["56", "63", "70"], ["50", "49", "77"]),
        ({"type": "number", "minimum": 1e100, "maximum": 2e100}, [], ["1" + "0" * 100]),
        ({"type": "number", "minimum": 1e100, "maximum": 1e100}, [str(int(1e100))], ["1" + "0" * 100]),
        ({"type": "integer", "minimum": 2**60, "maximum": 2**60}, [str(2**60)], [str(2**60 + 1)]),
        ({"type": "integer", "minimum": -(2**60), "maximum": -(2.0**60), "multipleOf": 4}, [str(-(2**60))], []),
        ({"type": "integer", "multipleOf": 5000}, ["0", "5000"], ["999"]),
        ({"type": "integer", "multipleOf": 0.4}, ["2", "4"], ["1", "3"]),
        ({"type": "number"}, ["0", "1.5", "999.99"], ["1.", ".5", "1.234", "-1", "1e5"]),
        (
            {"type": "number", "minimum": -0.5, "maximum": 1.25},
            ["-0.5", "-0.01", "0", "1.2", "1.25"],
            ["-0.51", "1.26", "-0", "-0.0", "2"],
        ),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, ["0.01", "1", "1.00"], ["0", "0.0", "0.00", "1.01"]),
        ({"type": "number", "exclusiveMinimum": 0.001, "exclusiveMaximum": 0.003}, ["0.002"], ["0.001", "0.003"]),
        ({"type": "number", "minimum": 1e-7, "maximum": 1e-7}, ["0.0000001"], ["0"]),
        ({"type": "number", "multipleOf": 0.01, "minimum": 0.07, "maximum": 0.08}, ["0.08"], ["0.07", "0.075"]),
        ({"type": ["integer", "number", "null"]}, ["1.5", "null"], ["true"]),
        ({"type": "boolean"}, ["true", "false"], ["True", "null"]),
        ({"type": "null"}, ["null"], ["false"]),
        ({"type": ["string", "null"], "enum": ["x", None, 5]}, ['"x"', "null"], ["5"]),
        ({"enum": ['a"\\\n', "é", 1.5, {"b": [1, {}]}]}, [r'"a\"\\\n"', '"é"', "1.5", '{"b":[1,{}]}'], ['"\\u00e9"']),
        ({"enum": [1, 2, 3], "not": {"const": 2}}, ["1", "3"], ["2"]),
        ({"enum": [0.1, 0.3], "minimum": 0.1, "maximum": 0.2}, ["0.1"], ["0.3"]),
        ({**DRAFT_4, "enum": [5, 10, 11], "maximum": 10, "exclusiveMaximum": False}, ["5", "10"], ["11"]),
        ({**DRAFT_4, "enum": [5, 10, 11], "maximum": 10, "exclusiveMaximum": True}, ["5"], ["10", "11"]),
        ({**DRAFT_4, "enum": [1, 2], "minimum": 1, "exclusiveMinimum": True}, ["2"], ["1"]),
        ({**DRAFT_4, "enum": [5, 10, 20], "not": {"maximum": 10, "exclusiveMaximum": False}}, ["20"], ["5", "10"]),
        ({**DRAFT_4, "enum": [5, 10, 20], "not": {"maximum": 10, "exclusiveMaximum": True}}, ["10", "20"], ["5"]),
        ({**DRAFT_4, "type": "integer", "minimum": 3, "exclusiveMinimum": True, "maximum": 4}, ["4"], ["3"]),
        ({**DRAFT_4, "type": "integer", "not": {"minimum": 3, "exclusiveMinimum": True}, "minimum": 2}, ["2"], ["4"]),
        ({"const": "\ud800\u2028"}, [r'"\ud800\u2028"'], []),
        ({"enum": ["a", "bb"], "minLength": 2}, ['"bb"'], ['"a"']),
        ({"minimum": 5, "maximum": 6}, ["5", "6"], ['"a"', "7"]),
        (True, ['"a"', "1.5", "true"], ["null"]),
        ({}, ['"a"', "1.5", "true"], []),
        ({"minLength": 3, "maxLength": 1, "minimum": 5}, ["5"], ['"a"', "true"]),
        ({"type": ["string", "null"], "pattern": r"(a)\1"}, ["null"], []),
        ({"type": "string", "title": "t", "description": "d", "default": 1, "examples": [1], "nullable": True}, ['"a"'], ["1"]),
    ],
)
def test_scalars(schema: Any, matching: list[str], other: list[str]) -> None:
    check(schema, matching, other)


@pytest.mark.parametrize("name", ["date-time", "date", "time", "duration", "email", "uri", "uuid", "ipv4", "ipv6", "hostname"])
def test_a_format_gives_texts_of_the_format(name: str) -> None:
    checker = Draft202012Validator.FORMAT_CHECKER
    assert name in checker.checkers, "each text is valid of an unknown format"
    for text in texts({"type": "string", "format": name}, 50):
        assert checker.conforms(json.loads(text), name)
        assert len(json.loads(text)) > 2


def optional(schema: Any) -> dict[str, Any]:
    """The schema of an object with a member that need not be there."""
    return {"type": "object", "properties": {"a": schema}}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (False, "^the schema allows nothing$"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "at least 3 and at most 2 characters"),
        (
            whole(age={"type": "integer", "minimum": 3, "maximum": 2}),
            "^properties.age: no integer is found with minimum 3 and maximum 2$",
        ),
        ({"type": "number", "exclusiveMinimum": 99, "maximum": 99}, "^no number is found with exclusiveMinimum 99 and maximum 99$"),
        ({"type": "integer", "minimum": 2**60, "maximum": 2**60 + 1}, f"no integer is found with minimum {2**60} and maximum"),
        ({"type": "integer", "exclusiveMinimum": 2**60, "maximum": 2**60}, f"with exclusiveMinimum {2**60} and maximum {2**60}$"),
        ({"type": "number", "minimum": 0.5, "maximum": 0.25}, "^no number is found with minimum 0.5 and maximum 0.25$"),
        (
            whole(a={"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 6}),
            "^properties.a: no integer is found with minimum 1 and maximum 6 and multipleOf 7$",
        ),
        (whole(a={"type": "string", "not": {}}), "^properties.a.not excludes everything"),
        (
            whole(a={"type": "array", "items": whole(), "uniqueItems": True, "minItems": 2}),
            "^properties.a.uniqueItems with 2 items",
        ),
        (whole(a={"$dynamicRef": "#x"}), r"^properties.a.\$dynamicRef is not supported"),
        (whole(a={"type": "string", "pattern": "("}), "^properties.a: not a regular expression"),
        (whole(a={"type": "string", "pattern": r"(a)\1"}), "^properties.a: a regular expression may not contain a back-reference"),
        (whole(a={"type": "text"}), "^properties.a: unknown type 'text'"),
        (whole(a={"properties": []}), "^properties.a.properties is not an object of schemas"),
        (whole(a={"type": "object", "properties": {"b": 5}}), "^properties.a.properties is not an object of schemas"),
        ({"type": "object", "required": "a"}, "^required is not a list of names"),
        ({"minLength": -1}, "^minLength is not a count"),
        ([], "a schema is an object or a boolean"),
        (whole(a={"$ref": "#/$defs/b"}), r"^properties.a: \$ref '#/\$defs/b' names no schema"),
        (whole(a={"$ref": "https://example.com/x"}), "is not in this document"),
        ({"properties": {"a": {"$ref": "#/typo"}}, "required": ["a"]}, r"^properties.a: \$ref '#/typo' names no schema"),
        (optional({"$ref": "#/typo"}), r"^properties.a: \$ref '#/typo' names no schema"),
        (optional({"anyOf": [{}, {"$ref": "#/typo"}]}), r"^properties.a: \$ref '#/typo' names no schema"),
        (optional({"type": "text"}), "^properties.a: unknown type 'text'"),
        (optional({"type": []}), "^properties.a: type is an empty list"),
        (optional({"minLength": "1"}), "^properties.a.minLength is not a count"),
        (optional({"pattern": "("}), "^properties.a: not a regular expression: missing"),
        (optional({"type": "object", "patternProperties": {"[": {}}}), "^properties.a: not a regular expression: unterminated"),
        (
            optional({"type": "object", "propertyNames": {"pattern": "("}, "required": ["b"]}),
            "^properties.a.propertyNames: not a regular expression",
        ),
        (optional({"type": "string", "not": {"if": {"pattern": "("}}}), "^properties.a: not a regular expression"),
        (optional({"type": "integer", "not": {"if": {"$ref": "#/typo"}}}), r"^properties.a: \$ref '#/typo' names no schema"),
        ({"properties": {"a": False}, "required": ["a"]}, "^the required member 'a' is not allowed"),
        ({"$ref": "#"}, r"\$ref '#' refers to itself without end"),
        ({"$ref": "#/$defs/a", "$defs": {"a": whole(b={"$ref": "#/$defs/a"})}}, r"\$ref '#/\$defs/a' never ends"),
        ({"enum": []}, "no value of enum or const is valid"),
        ({"type": "string", "enum": [1]}, "no value of enum or const is valid"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "the required member 'a' is not allowed"),
        ({"type": "object", "minProperties": 3, "properties": {"a": {}}, "additionalProperties": False}, "no more than 1 members"),
        ({"const": "x" * 20_000}, "the constraint is too large"),
        (whole(**{f"a{i}": {"enum": ["x" * 90]} for i in range(200)}), "the constraint is too large"),
    ],
)
def test_what_cannot_be_guaranteed_is_refused_with_its_path(schema: Any, message: str) -> None:
    with pytest.raises(UnsupportedConstraint, match=message):
        json_pattern(schema, SHAKESPEARE)


def test_open_strings_use_the_given_characters_or_letters_where_these_are_few() -> None:
    automaton = Automaton(json_pattern({"type": "string"}, 'äöüßабвгдe"\\\n\u2028'))
    assert automaton.matches('"äöüß"')
    assert not automaton.matches('"abc"')
    automaton = Automaton(json_pattern({"type": "string"}, "01"))
    assert automaton.matches('"Abc d"')
    assert not automaton.matches('"01"')


def test_a_free_object_is_an_object_of_a_few_members() -> None:
    automaton, random = Automaton(free_json_object(SHAKESPEARE)), Random(0)
    found = [json.loads(automaton.walk(random)) for _ in range(50)]
    assert {len(one) for one in found} == {1, 2, 3}
    assert {type(value) for one in found for value in one.values()} == {str, int, float, bool, list, dict}


def test_many_optional_members_keep_the_pattern_small() -> None:
    small, large = (json_pattern(whole() | {"properties": {f"p{i}": {"const": 1} for i in range(n)}}, "").size for n in (50, 100))
    assert large < 2.5 * small


@pytest.mark.parametrize("closed", [{}, {"unevaluatedProperties": False}])
def test_many_dependent_schemas_keep_the_pattern_small(closed: Any) -> None:
    def dependent(count: int) -> Any:
        properties = {f"{letter}{i}": {"type": "string"} for letter in "ab" for i in range(count)}
        parts = {f"a{i}": {"properties": {f"b{i}": {"maxLength": 3}}, "required": [f"b{i}"]} for i in range(count)}
        return {"type": "object", "properties": properties, "dependentSchemas": parts, **closed}

    assert {"a0", "b0"} <= set().union(*(json.loads(text) for text in texts(dependent(9))))
    small, large = (json_pattern(dependent(n), "").size for n in (9, 18))
    assert large < 4.5 * small


def test_what_is_large_is_bounded_more_tightly_rather_than_refused() -> None:
    schema = {
        "type": "array",
        "items": {"type": "array", "items": {"type": "array", "items": whole(**{name: {"type": "string"} for name in "abcdef"})}},
    }
    assert len(compiled(schema).moves) < 5_000


@pytest.mark.parametrize("regex", ["^.*foo.*$", r"^[^@]+@[^@]+\.[^@]+$", r"^(\w+\s?)+$", "^[a-z]*a[a-z]*a[a-z]*$", r"^.+@.+\..+$"])
def test_an_ambiguous_expression_has_a_small_automaton(regex: str) -> None:
    schema = {"type": "string", "pattern": regex}
    texts(schema)
    assert len(compiled(schema).moves) < 300
