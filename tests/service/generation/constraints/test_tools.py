"""Schemas as programs send them: the arguments of tools, and models of pydantic and zod."""

import datetime
import decimal
import enum
import json
import uuid
from random import Random
from typing import Annotated, Any, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from service.generation.constraints.json_schema import json_pattern
from tests.service.generation.constraints.walks import SHAKESPEARE, Automaton

MOST_STATES = 2_500


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Address(BaseModel):
    street: str
    code: Annotated[str, Field(pattern=r"^\d{5}$")]
    country: Literal["DE", "FR"] = "DE"


class Item(BaseModel):
    sku: str = Field(min_length=3, max_length=10)
    quantity: int = Field(1, ge=1, le=99)
    price: decimal.Decimal
    tags: list[str] = []
    colour: Colour | None = None


class Order(BaseModel):
    """Nested models, with most of the types that pydantic has formats for."""

    id: uuid.UUID
    placed: datetime.datetime
    day: datetime.date
    hour: datetime.time
    items: list[Item] = Field(min_length=1)
    shipping: Address
    billing: Address | None = None
    counts: dict[str, int] = {}
    anything: dict[str, Any] = {}
    numbers: set[int] = set()
    pair: tuple[int, str] = (1, "a")
    either: int | str = 1


class Node(BaseModel):
    value: int
    children: list["Node"] = []


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    barks: bool


class Pets(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


class Keys(BaseModel):
    listed: dict[Literal["a", "b"], int]
    coloured: dict[Colour, float]
    described: dict[Annotated[str, Field(pattern="^x-")], int]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    share: float = Field(ge=0, le=1)
    longitude: float = Field(gt=-180, le=180)
    even: int = Field(multiple_of=2, gt=0)
    note: str | None


MODELS = (Address, Order, Node, Pets, Keys, Strict)
STRING = {"type": "string"}
EXPRESSION = {"$ref": "#/$defs/e"}


def closed(**properties: Any) -> dict[str, Any]:
    """An object as OpenAI's strict mode wants it."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


DATE = r"(?:\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|(?:02)-(?:0[1-9]|1\d|2[0-8])))"
ZOD = closed(  # what zod's toJSONSchema gives for string formats: a format and an expression
    email={
        **STRING,
        "format": "email",
        "pattern": r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
    },
    uuid={
        **STRING,
        "format": "uuid",
        "pattern": r"^([0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-fA-F]{3}-[89ab][0-9a-f]{3}-[0-9a-fA-F]{12}|0{8}-0{4}-0{4}-0{4}-0{12})$",
    },
    at={
        **STRING,
        "format": "date-time",
        "pattern": rf"^{DATE}T(?:(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?:Z))$",
    },
    day={**STRING, "format": "date", "pattern": f"^{DATE}$"},
    span={
        **STRING,
        "format": "duration",
        "pattern": r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$",
    },
    id={**STRING, "format": "cuid", "pattern": r"^[cC][^\s-]{8,}$"},
    starts={**STRING, "pattern": "^abc.*"},
    integer={"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
    record={"type": "object", "propertyNames": STRING, "additionalProperties": {"type": "number"}},
    chosen={
        "type": "object",
        "propertyNames": {**STRING, "enum": ["a", "b"]},
        "additionalProperties": {"type": "number"},
        "required": ["a", "b"],
    },
    pair={"type": "array", "prefixItems": [STRING, {"type": "number"}]},
)

TOOLS: dict[str, dict[str, Any]] = {
    **{model.__name__: model.model_json_schema() for model in MODELS},
    "models": TypeAdapter(list[Address]).json_schema(),
    "zod": ZOD,
    "weather": {
        "type": "object",
        "properties": {
            "location": {**STRING, "description": "The city"},
            "unit": {**STRING, "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["location"],
    },
    "strict weather": closed(location=STRING, unit={"type": ["string", "null"], "enum": ["celsius", "fahrenheit", None]}),
    "search": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **closed(
            query=STRING,
            limit={"type": "integer", "minimum": 1, "maximum": 50, "default": 10},
            filters={
                "type": "array",
                "items": closed(field=STRING, operation={"enum": ["eq", "lt"]}, value={"anyOf": [STRING, {"type": "number"}]}),
            },
        ),
    },
    "calendar": {
        "type": "object",
        "properties": {
            "title": STRING,
            "start": {**STRING, "format": "date-time"},
            "guests": {"type": "array", "items": {**STRING, "format": "email"}, "maxItems": 5},
            "repeat": closed(frequency={**STRING, "enum": ["daily", "weekly"]}, count={"type": "integer", "exclusiveMinimum": 0}),
        },
        "required": ["title", "start"],
    },
    "optional fields": {"type": "object", "properties": {f"option_{i}": STRING for i in range(20)}},
    "no arguments": {"type": "object", "properties": {}},
    "no arguments, strict": closed(),
    "actions": closed(
        thoughts=STRING,
        action={
            "oneOf": [
                closed(type={"const": name}, **{key: STRING})
                for name, key in (("search", "query"), ("open", "url"), ("end", "answer"))
            ]
        },
    ),
    "expression": {
        "$defs": {
            "e": {
                "anyOf": [
                    closed(sign={"enum": ["+", "*"]}, left={"$ref": "#/$defs/e"}, right={"$ref": "#/$defs/e"}),
                    {"type": "number"},
                ]
            }
        },
        "$ref": "#/$defs/e",
    },
    "matrix": {"type": "array", "items": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}},
    "router": closed(
        destination={"enum": ["a", "b"]},
        inputs={"type": "object", "additionalProperties": True},
        sure={"type": "number", "maximum": 1},
    ),
    "password": closed(password={**STRING, "pattern": r"^(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{8,20}$"}),
    "either of two": {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "name": STRING},
        "oneOf": [{"required": ["id"]}, {"required": ["name"]}],
    },
    "condition": {
        "type": "object",
        "properties": {"paid": {"type": "boolean"}, "card": STRING},
        "required": ["paid"],
        "if": {"properties": {"paid": {"const": True}}},
        "then": {"required": ["card"]},
    },
}


@pytest.mark.parametrize("name", TOOLS)
def test_a_schema_of_a_tool_gives_valid_json_and_a_small_automaton(name: str) -> None:
    schema = TOOLS[name]
    automaton, random = Automaton(json_pattern(schema, SHAKESPEARE)), Random(0)
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for _ in range(20):
        validator.validate(json.loads(automaton.walk(random)))
    assert len(automaton.moves) < MOST_STATES


@pytest.mark.parametrize("model", MODELS)
def test_a_model_of_pydantic_reads_what_its_schema_gives(model: type[BaseModel]) -> None:
    automaton, random = Automaton(json_pattern(model.model_json_schema(), SHAKESPEARE)), Random(0)
    for _ in range(20):
        model.model_validate_json(automaton.walk(random))
