"""The base of all request bodies, and the types of fields that several of them share. Knows nothing of models or engines."""

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetPydanticSchema,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from service.generation.backend import MAX_TOP_LOGPROBS
from service.generation.constraints.compiler import Constraint
from service.notes import ignores_unknown_fields, note_ignored

MAX_SEED = 2**64 - 1
MAX_STOP = 16  # stop strings
MAX_ALLOWED = 10_000  # characters
MAX_REGEX = 10_000  # characters
MAX_CHOICES = 1_000


class RequestBody(BaseModel):
    """A request body, or an object in it. A null field counts as absent. Unknown fields are rejected, or ignored with
    `--unknown-fields ignore`.
    """

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_null_and_ignored(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        fields = {name: item for name, item in value.items() if item is not None}
        if cls.model_config["extra"] == "forbid" and ignores_unknown_fields():
            known = _known(cls)
            for name in [name for name in fields if name not in known]:
                note_ignored(name)
                del fields[name]
        return fields


@cache
def _known(body: type[RequestBody]) -> frozenset[str]:
    """The names of a body's fields, as clients send them."""
    return frozenset(field.alias or name for name, field in body.model_fields.items())


def invalid(field: str, message: str) -> PydanticCustomError:
    """An error of one field that is found when all fields are known."""
    return PydanticCustomError("invalid_value", "{message}", {"message": message, "param": field})


def only(*values: Any) -> GetPydanticSchema:
    """Annotates a field that other servers support and this server does not. Accepts only values that change nothing."""

    def check(given: Any) -> Any:
        if any(given == value and isinstance(given, bool) == isinstance(value, bool) for value in values):
            return given
        accepted = {"accepted": " or ".join(json.dumps(value) for value in values)}
        raise PydanticCustomError("unsupported_value", "this value is not supported; send {accepted} or omit the field", accepted)

    return GetPydanticSchema(
        lambda source, handler: core_schema.no_info_before_validator_function(check, handler(source)),
        lambda _, __: {"enum": [*values], "description": "Accepted for compatibility. Other values are not supported."},
    )


def _reject(_: Any) -> None:
    raise PydanticCustomError("unsupported_parameter", "this field is not supported; omit it")


def only_types(things: str, *types: str) -> BeforeValidator:
    """Rejects objects of another `type`, alone or in a list, and names it. things: what errors call the objects."""

    def check(value: Any) -> Any:
        found = [one.get("type") for one in (value if isinstance(value, list) else [value]) if isinstance(one, Mapping)]
        if others := {kind for kind in found if isinstance(kind, str)} - {*types}:
            names = {"things": things, "others": ", ".join(sorted(others)), "types": ", ".join(types)}
            message = "{things} of type {others} are not supported; supported types: {types}"
            raise PydanticCustomError("unsupported_value", message, names)
        return value

    return BeforeValidator(check)


def by_type(default: str, other: str | None = None) -> Discriminator:
    """Chooses the branch of a union by an object's `type`, or `default` without one. other: the branch of what is no object.

    So pydantic reports errors of that branch only. `service.api.errors` recognizes the names of branches by their brackets.
    """

    def branch(value: Any) -> str:
        if not isinstance(value, Mapping | BaseModel):
            return f"[{other or default}]"
        kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
        return f"[{kind if isinstance(kind, str) and kind else default}]"

    return Discriminator(branch)


Unsupported = Annotated[None, BeforeValidator(_reject), Field(description="Not supported. Omit it or send null.")]
Unused = Annotated[Any, Field(description="Accepted for compatibility and ignored.")]

L = TypeVar("L")
TextOr = Annotated[
    Annotated[str, Tag("[text]")] | Annotated[L, Tag("[list]")],
    Discriminator(lambda given: "[list]" if isinstance(given, list) else "[text]"),
]
"""A text or a list. An error of one does not mention the other; see `by_type` for the brackets."""

P = TypeVar("P")
Joined = Annotated[
    TextOr[Annotated[list[P], Field(fail_fast=True)]],
    AfterValidator(lambda given: given if isinstance(given, str) else "".join(part.text for part in given)),
]
"""A text, or parts with a `text` each, which are joined."""

ModelName = Annotated[str | None, Field(description="Name of the model. If omitted, the server's default model is used.")]
Seed = Annotated[
    Annotated[int, Field(ge=-(2**63), le=MAX_SEED)] | None,
    AfterValidator(lambda seed: None if seed in (None, -1) else seed % (MAX_SEED + 1)),
    Field(
        description="Seed of the random numbers. The same model version, request and seed give the same text, unless a time limit "
        "ends it. If omitted or -1, the server chooses a seed. Other negative numbers are taken modulo 2^64."
    ),
]
Logprobs = Annotated[
    Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None,
    BeforeValidator(
        lambda count: None if count is False or count == "false" else count, json_schema_input_type=int | Literal[False] | None
    ),
    Field(
        description="Return the log-probability of each character, and those of this many of the most likely characters at its "
        "position. If omitted or false, none are returned."
    ),
]
Pace = Annotated[
    float,
    Field(
        ge=0.01,
        le=1e6,
        description="Maximum rate of the answer, in characters per second. It simulates the speed of a larger model.",
    ),
]
OnUnknown = Annotated[
    Literal["error", "skip", "replace"],
    Field(
        description="How to treat characters outside the model's vocabulary. `error` rejects the request and names their "
        "positions, `skip` removes them, `replace` replaces each with a space. The header X-Unknown-Characters counts removed and "
        "replaced characters."
    ),
]
JsonSchema = dict[str, Any]
Regex = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_REGEX,
        description="The whole generated text matches this regular expression: Python's syntax without lookaround, "
        "backreferences and word boundaries. It may demand characters that the model's vocabulary lacks.",
    ),
]
Choices = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1000)]],
    Field(min_length=1, max_length=MAX_CHOICES, description="The generated text is one of these strings."),
]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class SamplingFields(RequestBody):
    """How characters are sampled. `service.generation.sampling.Sampling` documents the order of the steps."""

    temperature: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Divides the logits. 1 samples from the model's own distribution, lower values favour likely characters, and "
        "0 always takes the most likely character.",
    )
    top_k: Annotated[Annotated[int, Field(ge=-1, le=2**31 - 1)] | None, AfterValidator(lambda k: k if k and k > 0 else None)] = (
        Field(None, description="Sample only from the k most likely characters. 0 and -1 disable the limit.")
    )
    top_p: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Nucleus sampling: sample only from the smallest set of most likely characters whose probabilities sum to at "
        "least this value. 1 disables the limit.",
    )
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Sample only from characters whose probability is at least this fraction of the highest one. 0: no limit.",
    )
    allowed_characters: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_ALLOWED,
        description="Sample only from these characters. If omitted, every character is allowed.",
    )
    presence_penalty: Penalty = Field(
        0.0, description="Subtracted from the logit of each character that occurs in the generated text."
    )
    frequency_penalty: Penalty = Field(
        0.0, description="Subtracted from a character's logit once for each of its occurrences in the generated text."
    )
    repetition_penalty: float = Field(
        1.0,
        ge=0.01,
        le=2,
        description="Applies to characters that occur in the prompt or the generated text: positive logits are divided by it, "
        "negative logits are multiplied by it. Values above 1 discourage repetition.",
    )


def _as_list(value: object) -> object:
    """An empty string means no stop strings. Inside a list it is an error."""
    return ([value] if value else []) if isinstance(value, str) else value


Stop = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1000)]],
    Field(
        max_length=MAX_STOP, description=f"A string or up to {MAX_STOP} strings. The text ends before the first one that occurs."
    ),
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
]


def only_constraint(names: Mapping[str, str] | None = None, **values: Any) -> Constraint | None:
    """The constraint of a request, which has at most one. values: by the kind of constraint.

    names: this protocol's names of the fields, where they differ. Raises PydanticCustomError for several constraints, and for a
    schema that is no JSON object.
    """
    given = {kind: value for kind, value in values.items() if value not in (None, False)}  # a schema may be {}
    if not given:
        return None
    named = [(names or {}).get(kind, kind) for kind in given]
    if len(given) > 1:
        raise invalid(named[1], f"cannot be combined with {named[0]}; send one of them")
    ((kind, value),) = given.items()
    if kind == "json_schema" and isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
        if not isinstance(value, dict):
            raise invalid(named[0], "the string holds no JSON object")
    return Constraint(kind, None if kind == "json_object" else value)  # type: ignore[arg-type]
