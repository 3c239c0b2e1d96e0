"""Objects, arrays, and schemas made of others: texts that their patterns match, and others that they do not."""

from typing import Any

import pytest

from tests.service.generation.constraints.walks import check, whole

ONE, TWO = {"const": 1}, {"enum": [2]}
DRAFT_2019 = {"$schema": "https://json-schema.org/draft/2019-09/schema"}
DRAFT_7 = {"$schema": "http://json-schema.org/draft-07/schema#"}


@pytest.mark.parametrize(
    ("schema", "matching", "other"),
    [
        (
            {"properties": {"a": ONE, "b": TWO}},
            ['{"a":1,"b":2}', '{"a":1}', '{"b":2}'],
            ["{}", '{"b":2,"a":1}', '{"a":1,}', '{"a": 1}'],
        ),
        ({"properties": {"a": ONE, "b": TWO}, "required": ["b"]}, ['{"a":1,"b":2}', '{"b":2}'], ['{"a":1}', "{}"]),
        (
            {"type": "object", "properties": dict.fromkeys("abcdefghij", ONE)},
            ['{"a":1,"j":1}', '{"c":1,"d":1}', '{"b":1}'],
            ["{}", '{"b":1,"a":1}', '{"a":1"b":1}'],
        ),
        ({"type": "object", "properties": {'q"\\é\n': ONE}}, [r'{"q\"\\é\n":1}'], []),
        ({"properties": {"\U0010ffff": ONE, "😀": TWO}}, [r'{"\udbff\udfff":1,"😀":2}'], [r'{"\u10ffff":1}']),
        ({"type": "object", "required": ["a"]}, ['{"a":true}', '{"a":"x"}'], ["{}", '{"b":1}']),
        ({"type": "object"}, ['{"a":1}', '{"a":1,"k":true}', '{"a":"x","i":2,"z":3}'], ["{}", '{"a":1,"b":2}', '{"a":[]}']),
        ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a":1}']),
        ({"type": "object", "additionalProperties": ONE}, ['{"abc":1}', '{"a":1,"n":1}'], ['{"a":2}']),
        ({"type": "object", "additionalProperties": ONE, "maxProperties": 1}, ['{"a":1}', '{"z":1}'], ['{"a":1,"n":1}']),
        (
            {"type": "object", "additionalProperties": ONE, "minProperties": 4},
            ['{"a":1,"h":1,"n":1,"t":1}'],
            ['{"a":1,"h":1,"n":1}'],
        ),
        ({"type": "object", "additionalProperties": {"enum": []}}, ["{}"], []),
        ({"type": "object", "maxProperties": 0}, ["{}"], ['{"a":1}']),
        (
            {"type": "object", "properties": {"a": ONE, "b": ONE, "c": ONE}, "minProperties": 2, "required": ["c"]},
            ['{"a":1,"c":1}', '{"a":1,"b":1,"c":1}'],
            ['{"c":1}'],
        ),
        (
            {"type": "object", "properties": dict.fromkeys("abc", ONE), "maxProperties": 2},
            ['{"a":1,"b":1}'],
            ['{"a":1,"b":1,"c":1}'],
        ),
        (
            {"type": "object", "properties": {"x": ONE}, "minProperties": 2, "additionalProperties": TWO},
            ['{"x":1,"a":2}'],
            ['{"x":1}'],
        ),
        ({"type": "object", "properties": {"a": False, "b": ONE}}, ['{"b":1}'], ['{"a":1,"b":1}']),
        (
            {"type": "object", "propertyNames": {"enum": ["p", "q"]}, "additionalProperties": ONE},
            ['{"p":1}', '{"p":1,"q":1}'],
            ['{"a":1}'],
        ),
        (
            {
                "type": "object",
                "propertyNames": {"$ref": "#/$defs/k"},
                "additionalProperties": ONE,
                "$defs": {"k": {"enum": ["p"]}},
            },
            ['{"p":1}'],
            ['{"a":1}'],
        ),
        ({"type": "object", "propertyNames": {"minLength": 3, "maxLength": 3}, "minProperties": 2}, [], ['{"a":1,"b":1}']),
        (
            {"type": "object", "patternProperties": {"^x-$": ONE}, "additionalProperties": False},
            ['{"x-":1}'],
            ['{"a":1}', '{"x-":2}'],
        ),
        (
            {"type": "object", "properties": {"ab": {"type": "integer"}}, "patternProperties": {"^a": ONE}},
            ['{"ab":1}'],
            ['{"ab":2}'],
        ),
        (
            {**whole(a=ONE), "properties": {"a": ONE, "b": TWO}, "dependentRequired": {"a": ["b"]}},
            ['{"a":1,"b":2}'],
            ['{"a":1}', '{"b":2}'],
        ),
        ({"type": "object", "properties": {"a": ONE, "b": TWO}, "dependentRequired": {"b": ["c"]}}, ['{"a":1}'], ['{"b":2}']),
        (
            {"type": "object", "additionalProperties": ONE, "dependentRequired": {"a": ["b"]}, "minProperties": 2},
            ['{"b":1,"c":1}'],
            ['{"a":1,"c":1}', '{"abc":1,"c":1}'],
        ),
        (
            {"type": "object", "patternProperties": {"^[a-b]$": ONE}, "dependentRequired": {"a": ["zz"]}},
            ['{"b":1}'],
            ['{"a":1}', '{"a":1,"b":1}'],
        ),
        (
            {**DRAFT_7, "type": "object", "additionalProperties": ONE, "dependencies": {"a": ["b"]}, "minProperties": 2},
            ['{"b":1,"c":1}'],
            ['{"a":1,"c":1}'],
        ),
        (
            {
                "type": "object",
                "required": ["a"],
                "dependentRequired": {"a": ["b"]},
                "minProperties": 3,
                "additionalProperties": ONE,
            },
            ['{"a":1,"b":1,"c":1}'],
            ['{"a":1,"b":1,"b":1}'],
        ),
        (
            {
                "type": "object",
                "properties": {"a": ONE, "b": TWO, "c": ONE},
                "dependencies": {"a": {"required": ["b"]}},
                "dependentSchemas": {"a": {"required": ["c"]}},
            },
            ['{"a":1,"b":2,"c":1}', '{"b":2}'],
            ['{"a":1,"b":2}', '{"a":1,"c":1}'],
        ),
        (
            {
                "enum": [{"a": 1, "b": 2, "c": 1}, {"a": 1, "c": 1}, {"a": 1, "b": 2}],
                "dependencies": {"a": ["b"]},
                "dependentRequired": {"a": ["c"]},
            },
            ['{"a":1,"b":2,"c":1}'],
            ['{"a":1,"c":1}', '{"a":1,"b":2}'],
        ),
        (
            {"type": "object", "properties": {"a": ONE, "b": TWO}, "dependentSchemas": {"a": {"required": ["b"]}}},
            ['{"a":1,"b":2}', '{"b":2}'],
            ['{"a":1}'],
        ),
        (
            {
                "type": "object",
                "dependentSchemas": {"a": {"properties": {"b": TWO}, "required": ["b"]}},
                "unevaluatedProperties": False,
            },
            ["{}"],
            ['{"b":2}'],
        ),
        (
            {
                "type": "object",
                "properties": dict.fromkeys("abc", ONE),
                "required": ["c"],
                "dependentSchemas": {"a": {"properties": {"d": TWO}}, "b": False, "c": {"properties": {"e": TWO}}},
                "unevaluatedProperties": False,
            },
            ['{"a":1,"c":1,"d":2,"e":2}', '{"c":1,"e":2}'],
            ['{"b":1,"c":1}', '{"c":1,"d":2}', '{"c":1,"f":1}'],
        ),
        ({"type": "object", "properties": {"a": ONE}, "unevaluatedProperties": False}, ['{"a":1}'], ["{}"]),
        (
            {"type": "object", "allOf": [{"properties": {"a": ONE}}, {"properties": {"b": TWO}, "unevaluatedProperties": False}]},
            ['{"b":2}'],
            ['{"a":1,"b":2}', '{"a":1}'],
        ),
        ({"type": "object", "not": {"properties": {"p": {"type": "string"}}}}, ['{"p":1}'], ['{"p":"a"}']),
        (
            {"anyOf": [ONE, {"type": "object", "not": {"properties": {"p": {}}}, "unevaluatedProperties": False}]},
            ["1"],
            ['{"p":1}'],
        ),
        (
            {"allOf": [whole(a={"type": "integer"}), {"properties": {"a": {"minimum": 4, "maximum": 5}}}]},
            ['{"a":4}', '{"a":5}'],
            ['{"a":6}'],
        ),
        (
            {"type": "object", "allOf": [{"properties": {"a": ONE, "b": TWO}}, {"properties": {"a": {"const": True}}}]},
            ['{"b":2}'],
            ['{"a":1,"b":2}', '{"a":true,"b":2}'],
        ),
    ],
)
def test_objects(schema: Any, matching: list[str], other: list[str]) -> None:
    check(schema, matching, other)


@pytest.mark.parametrize(
    ("schema", "matching", "other"),
    [
        ({"type": "array", "items": ONE}, ["[1]", "[1,1,1]"], ["[]", "[1,1,1,1]", "[1,]", "[2]"]),
        ({"type": "array", "items": ONE, "minItems": 2}, ["[1,1]", "[1,1,1,1,1]"], ["[1]", "[1,1,1,1,1,1]"]),
        ({"type": "array", "items": ONE, "maxItems": 5}, ["[1]", "[1,1,1,1,1]"], ["[]", "[1,1,1,1,1,1]"]),
        ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
        ({"type": "array", "items": False}, ["[]"], ["[1]"]),
        ({"type": "array"}, ['["a",1,true]'], ["[]", "[[]]"]),
        ({"type": "array", "prefixItems": [ONE, TWO]}, ["[1,2]", "[1]"], ["[]", "[2]"]),
        ({"type": "array", "prefixItems": [ONE, TWO], "items": False, "minItems": 2}, ["[1,2]"], ["[1]", "[1,2,3]"]),
        (
            {"type": "array", "prefixItems": [ONE], "items": TWO, "minItems": 1, "maxItems": 3},
            ["[1]", "[1,2]", "[1,2,2]"],
            ["[1,1]"],
        ),
        ({"type": "array", "prefixItems": [ONE, False]}, ["[1]"], ["[1,1]"]),
        ({"type": "array", "prefixItems": [ONE, TWO], "unevaluatedItems": False}, ["[1]", "[1,2]"], ["[1,2,3]"]),
        (
            {"type": "array", "prefixItems": [ONE], "not": {"items": {"type": "string"}}, "unevaluatedItems": False},
            ["[1]"],
            ["[1,null]"],
        ),
        ({"type": "array", "dependentSchemas": {"a": {"prefixItems": [ONE]}}, "unevaluatedItems": TWO}, ["[2]"], ["[1]"]),
        ({"type": "array", "not": {"prefixItems": [ONE]}, "unevaluatedItems": {"enum": [1, 2]}}, ["[2,1]"], ["[3]", "[1]"]),
        ({"type": "array", "contains": ONE, "unevaluatedItems": False}, ["[1]", "[1,1]"], ["[]", "[1,2]", "[2]"]),
        ({"type": "array", "contains": ONE, "unevaluatedItems": TWO}, ["[1]", "[1,2]"], ["[]", "[1,3]", "[2]"]),
        ({**DRAFT_2019, "type": "array", "contains": ONE, "unevaluatedItems": {"enum": [1, 2]}}, ["[1,2]"], ["[2]", "[1,3]"]),
        ({**DRAFT_2019, "type": "array", "items": [ONE], "unevaluatedItems": False}, ["[1]"], ["[1,1]", "[1,true]"]),
        ({**DRAFT_2019, "type": "array", "items": [ONE], "unevaluatedItems": TWO, "minItems": 2}, ["[1,2]"], ["[1,1]"]),
        ({**DRAFT_2019, "type": "array", "items": [ONE], "additionalItems": TWO, "unevaluatedItems": False}, ["[1,2]"], ["[1,1]"]),
        ({**DRAFT_2019, "type": "array", "items": ONE, "unevaluatedItems": False}, ["[1,1]"], ["[1,2]"]),
        ({"type": "array", "items": {"type": "integer"}, "contains": ONE}, ["[1]", "[1,5]"], ["[]", "[5]"]),
        (
            {"type": "array", "items": {"enum": [1, 2]}, "contains": ONE, "minContains": 2, "maxContains": 2},
            ["[1,1]"],
            ["[1]", "[1,1,1]"],
        ),
        ({"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True}, ["[1]", "[1,2]", "[1,2,3]"], ["[1,1]"]),
        (
            {"type": "array", "items": {"anyOf": [{"enum": [1, 2]}, {"enum": [1.0]}]}, "uniqueItems": True},
            ["[1,2]"],
            ["[1,1]", "[1,1.0]"],
        ),
        ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True}, ["[true]", "[true,false]"], ["[true,true]"]),
        ({"type": "array", "items": {"enum": [1, 2]}, "contains": ONE, "minContains": 0, "maxContains": 0}, ["[2]"], ["[1]"]),
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "minItems": 4}, [], ["[1,1,1,1]", "[1,2,3]"]),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}] * 2, "items": False, "minItems": 2, "uniqueItems": True},
            ["[1,12]"],
            ["[1,1]", "[1]", "[1,12,23]"],
        ),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True, "minItems": 2}, [], ['["aaa","aaa"]', '["a"]']),
    ],
)
def test_arrays(schema: Any, matching: list[str], other: list[str]) -> None:
    check(schema, matching, other)


NODE = {
    "$ref": "#/$defs/node",
    "$defs": {"node": whole(value=ONE, next={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]})},
}


@pytest.mark.parametrize(
    ("schema", "matching", "other"),
    [
        ({"anyOf": [ONE, TWO, {"type": "null"}]}, ["1", "2", "null"], ["3"]),
        ({"type": "integer", "anyOf": [{"maximum": 2}, {"minimum": 998}]}, ["0", "2", "998"], ["3"]),
        ({"anyOf": [{"type": "string", "pattern": r"(a)\1|\p{L}"}, ONE]}, ["1"], []),
        ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 4}]}, ["3", "4"], ["2", "5"]),
        ({"allOf": [{"type": ["string", "number"]}, {"type": ["integer", "null"]}]}, ["5"], ['"a"', "1.5", "null"]),
        ({"allOf": [{"type": "string", "pattern": "^a"}, {"pattern": "b$", "maxLength": 2}]}, ['"ab"'], ['"a"', '"b"']),
        ({"oneOf": [ONE, TWO, {"enum": [2, 3]}]}, ["1", "3"], ["2"]),
        ({"oneOf": [{"type": "integer", "maximum": 5}, {"type": "integer", "minimum": 3, "maximum": 9}]}, ["2", "6"], ["3", "5"]),
        ({"oneOf": [{"type": "string", "maxLength": 3}, {"type": "string", "minLength": 2}]}, ['"a"', '"abcd"'], ['"ab"', '"abc"']),
        (
            {"oneOf": [{"properties": {"k": {"const": "a"}}}, {"properties": {"k": {"const": "b"}}}], "type": "object"},
            ['{"k":"a"}', '{"k":"b"}'],
            ["{}", '{"k":"c"}'],
        ),
        (
            {**whole(), "properties": {"a": ONE, "b": TWO}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            ['{"a":1}'],
            ['{"a":1,"b":2}'],
        ),
        ({"not": {"type": ["string", "object", "array"]}, "enum": ["a", 1, None]}, ["1", "null"], ['"a"']),
        ({"type": "string", "not": {"enum": ["a", "b"]}}, ['"ab"'], ['"a"', '"b"']),
        ({"type": "array", "maxItems": 1, "not": {"enum": [[1]]}}, ["[]"], ["[1]"]),
        ({"type": "object", "maxProperties": 1, "not": {"enum": [{"a": 1}]}}, ["{}"], ['{"a":1}']),
        ({"type": "string", "pattern": "^[ab]{6}$", "not": {"const": []}}, ['"ababab"', '"aaaaaa"', '"bbbbbb"'], []),
        ({**whole(a={"type": "integer"}), "not": {"required": ["b"]}}, ['{"a":7}'], ["{}"]),
        (
            {
                **whole(k={"enum": [1, 2]}),
                "if": {"properties": {"k": ONE}},
                "then": {"required": ["v"]},
                "else": {"required": ["w"]},
            },
            ['{"k":1,"v":true}', '{"k":2,"w":true}'],
            ['{"k":1}', '{"k":2}', '{"k":1,"w":true}'],
        ),
        (NODE, ['{"value":1,"next":null}', '{"value":1,"next":{"value":1,"next":null}}'], ['{"value":1}']),
        ({**whole(a={"$ref": "#/definitions/x~1y"}), "definitions": {"x/y": ONE}}, ['{"a":1}'], ['{"a":2}']),
        ({"$ref": "#it", "minimum": 3, "$defs": {"x": {"$anchor": "it", "type": "integer", "maximum": 3}}}, ["3"], ["2", "4"]),
        ({"type": "array", "items": {"$ref": "#"}}, ["[[[]]]"], ["[1]"]),
    ],
)
def test_combinations_and_references(schema: Any, matching: list[str], other: list[str]) -> None:
    check(schema, matching, other)
