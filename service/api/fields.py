"""Field types that several request bodies share, and the base of all bodies. Knows nothing of models or engines."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from service.generation.backend import MAX_TOP_LOGPROBS

MAX_SEED = 2**64 - 1
MAX_STOP = 16  # stop strings
MAX_ALLOWED = 10_000  # characters


class RequestBody(BaseModel):
    """A request body. Null counts as not given; unknown fields are refused or ignored (see `service.api.body`)."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value


class Only:
    """For the type of a field that other servers support and this one does not: only values that change nothing are accepted."""

    def __init__(self, *values: Any) -> None:
        self._values = values

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"enum": list(self._values)}

    def _check(self, given: Any) -> Any:
        if any(given == value and isinstance(given, bool) == isinstance(value, bool) for value in self._values):
            return given
        accepted = " or ".join(json.dumps(value) for value in self._values)
        raise PydanticCustomError(
            "unsupported_value", "this value is not supported: send {accepted}, or leave the field out", {"accepted": accepted}
        )


def _refuse(_: Any) -> None:
    raise PydanticCustomError("unsupported_parameter", "this field is not supported: leave it out")


Unsupported = Annotated[None, BeforeValidator(_refuse), Field(description="not supported: leave it out or send null")]
Unused = Annotated[Any, Field(description="accepted; changes nothing here")]
"""The type of a field whose values all change nothing here."""

Temperature = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="1 samples as trained, less is safer, 0 always the likeliest")
]
TopK = Annotated[
    Annotated[int, Field(ge=-1, le=2**31 - 1)] | None,
    AfterValidator(lambda k: k if k and k > 0 else None),
    Field(description="draw from the k likeliest characters only; 0 and -1 mean no limit"),
]
TopP = Annotated[
    float,
    Field(ge=0, le=1, description="draw from the fewest likeliest characters whose probabilities reach this (nucleus sampling)"),
]
MinP = Annotated[float, Field(ge=0, le=1, description="draw only characters at least this many times as likely as the likeliest")]
AllowedCharacters = Annotated[str, Field(min_length=1, max_length=MAX_ALLOWED, description="draw these characters only")]
Seed = Annotated[
    Annotated[int, Field(ge=-(2**63), le=MAX_SEED)] | None,
    AfterValidator(lambda seed: None if seed in (None, -1) else seed % (MAX_SEED + 1)),
    Field(
        description="same request, same seed, same text, unless time ends it; drawn when not given or -1. Other negative numbers "
        "count as their 64 bits without sign"
    ),
]
Logprobs = Annotated[
    Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None,
    BeforeValidator(
        lambda count: None if count is False or count == "false" else count, json_schema_input_type=int | Literal[False] | None
    ),
]
Pace = Annotated[
    float, Field(ge=0.01, le=1e6, description="characters a second: slows the answer to what a larger model would feel like")
]
OnUnknown = Annotated[
    Literal["error", "skip", "replace"],
    Field(
        description="characters that the model's vocabulary lacks: an error with their positions, left out, or replaced by spaces"
    ),
]


Penalty = Annotated[float, Field(ge=-2, le=2)]


class SamplingFields(RequestBody):
    """How characters are drawn; see `service.generation.sampling.Sampling` for the order."""

    temperature: Temperature = 1.0
    top_k: TopK = None
    top_p: TopP = 1.0
    min_p: MinP = 0.0
    allowed_characters: AllowedCharacters | None = None
    presence_penalty: Penalty = Field(0.0, description="subtracted from the logit of a character that the generated text has")
    frequency_penalty: Penalty = Field(0.0, description="the same, times how often it has the character")
    repetition_penalty: float = Field(
        1.0,
        ge=0.01,
        le=2,
        description="above 1 makes characters that the prompt or the text has less likely, below 1 likelier: it divides their "
        "logits, or multiplies those below 0",
    )


def _listed(value: object) -> object:
    """An empty string means none; in a list it is a mistake."""
    return ([value] if value else []) if isinstance(value, str) else value


Stop = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1000)]],
    Field(max_length=MAX_STOP, description=f"a string or up to {MAX_STOP}; the text ends before the first that occurs"),
    BeforeValidator(_listed, json_schema_input_type=str | list[str]),
]
