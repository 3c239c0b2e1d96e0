"""What requests and answers of the service's own operations look like. OpenAI's are in `openai_schemas`."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api.body import drop_unknown
from service.api.fields import (
    Logprobs,
    OnUnknown,
    Pace,
    RequestBody,
    SamplingFields,
    Seed,
    Stop,
)
from trainer.artifact import VersionConfig


class GenerateRequest(SamplingFields):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"start_string": "ROMEO: ", "temperature": 0.8, "num_generate": 200}]}
    )

    start_string: str | None = Field(
        None, min_length=1, description="the text to go on from; every character must be in the model's vocabulary (see on_unknown)"
    )
    state: str | None = Field(
        None,
        min_length=1,
        description="an earlier answer's `state`: goes on where that text ended, or after start_string appended to it",
    )
    return_state: bool = Field(False, description="answer with a `state` from which the text can be gone on with")
    stop: Stop = Field([])
    num_generate: int = Field(1000, ge=1, description="characters to generate")
    max_time_ms: int | None = Field(
        None, ge=1, le=86_400_000, description="end after this time, in the queue or not, with what there is by then"
    )
    seed: Seed = None
    model: str | None = Field(None, description="a model's name; the default one when not given")
    stream: bool | None = Field(
        None, description="answer with server-sent events; not given, `Accept` decides: text/event-stream asks for them"
    )
    logprobs: Logprobs = Field(None, description="each character's log-probability, and those of this many of the likeliest")
    echo: bool | None = Field(
        None, description="the answer's text begins with start_string: unless told otherwise it does, and a stream does not"
    )
    on_unknown: OnUnknown = "error"
    pace: Pace | None = None


class GenerateQuery(GenerateRequest):
    """The same as query parameters. An empty one counts as not given."""

    stream: bool | None = Field(None, description="changes nothing: a GET always streams")

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_and_unknown(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        fields = {name: [one for one in given if one] if isinstance(given, list) else given for name, given in value.items()}
        return drop_unknown({name: given for name, given in fields.items() if given not in ("", [])}, cls.model_fields)


class Alternative(BaseModel):
    character: str
    logprob: float = Field(description="natural logarithm of the probability that the network gave it, at temperature 1")


class CharacterLogprob(Alternative):
    likeliest: list[Alternative] = Field(description="from the likeliest on")


class Usage(BaseModel):
    """Counts of characters."""

    prompt_characters: int
    generated_characters: int


class Timings(BaseModel):
    """Milliseconds: waiting for a slot, reading the prompt up to the first character, and generating the rest."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    characters_per_second: float = Field(description="generated, from getting a slot to the end")


class Done(BaseModel):
    """The last event of a stream: an answer without its text."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    model: str
    version: int
    engine: str
    precision: str
    start_string: str = Field(description="as it was read: without what was skipped")
    seed: int
    finish_reason: Literal["length", "stop", "time"]
    usage: Usage
    timings: Timings
    state: str | None = Field(None, description="where return_state asked for it")


class GenerateResponse(Done):
    text: str = Field(description="start_string, unless echo is false, and what was generated")
    logprobs: list[CharacterLogprob] | None = Field(None, description="of what was generated, where asked for")


class ScoreRequest(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "To be, or not to be: that is the question."}]})

    text: str = Field(min_length=1, description="each character after the first is scored after all before it")
    model: str | None = Field(None, description="a model's name; the default one when not given")
    surprising: int = Field(10, ge=0, le=1000, description="so many of the least likely places are told")
    on_unknown: OnUnknown = "error"


class Surprise(CharacterLogprob):
    position: int = Field(description="of the character in the text, from 0")


class ScoreResponse(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    model: str
    version: int
    engine: str
    precision: str
    text: str = Field(description="as it was read: without what was skipped")
    scored_characters: int
    logprobs: list[float | None] = Field(description="one for each character; null for the first, which nothing is before")
    nats_per_character: float | None
    perplexity: float | None
    surprising: list[Surprise] = Field(description="the least likely first")


class VectorizeRequest(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "First Citizen"}]})

    text: str
    model: str | None = Field(None, description="a model's name; the default one when not given")


class Unknown(BaseModel):
    character: str
    position: int


class VectorizeResponse(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    model: str
    version: int
    ids: list[int | None] = Field(description="one for each character; null where the vocabulary lacks it")
    unknown: list[Unknown]


class ModelCard(BaseModel):
    """A model that is served."""

    name: str
    version: int
    default: bool = Field(description="taken by requests that name no model")
    parameters: int
    cell: str
    layers: int
    units: int
    vocabulary_size: int
    start_string: str = Field(description="one to begin with: the first line of the model's sample")
    characters: int = Field(description="of the text it was trained on")
    recipe: str
    created: str
    engine: str
    precision: str
    scores: dict[str, float | None] = Field(description="held-out nats per character of the float32 network as trained")
    scores_as_served: dict[str, float | None] | None = Field(
        description="the same of the int8 network that the service runs on CPUs; null if it was not scored"
    )
    loss: str | None = Field(description="where its loss curve is")
    sample: str | None = Field(description="where texts of it are")


class ModelList(BaseModel):
    models: list[ModelCard]
    refused: list[str] = Field(
        description="why versions are not served that would be, or chat templates, or why the models folder is lost"
    )


class ModelDetails(ModelCard):
    config: VersionConfig = Field(description="all of its config.json")
