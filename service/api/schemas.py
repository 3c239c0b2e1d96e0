"""Requests and answers of the service's own operations. OpenAI's are in `service.api.openai`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api.fields import (
    MAX_STOP,
    Choices,
    JsonSchema,
    Logprobs,
    ModelName,
    OnUnknown,
    Pace,
    Regex,
    RequestBody,
    SamplingFields,
    Seed,
    Stop,
    only_constraint,
)
from service.generation.constraints.compiler import Constraint
from trainer.artifact import VersionConfig


class GenerateRequest(SamplingFields):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"start_string": "ROMEO: ", "temperature": 0.8, "num_generate": 200}]}
    )

    start_string: str | None = Field(
        None,
        min_length=1,
        description="Text to continue. Required unless `state` is given. With `state`, it is appended to the earlier text before "
        "generation continues.",
    )
    state: str | None = Field(
        None, min_length=1, description="State token of an earlier answer. Generation continues at the end of that answer's text."
    )
    return_state: bool = Field(
        False, description="Return a state token in `state`. A later request can continue this text from the token."
    )
    stop: Stop = Field([])
    num_generate: int = Field(
        1000, ge=1, description="Maximum number of characters to generate. The server's own limit is 100,000 by default."
    )
    max_time_ms: int | None = Field(
        None,
        ge=1,
        le=86_400_000,
        description="Time limit in milliseconds, including time in the queue. At the limit the answer ends with the text generated "
        "so far, and finish_reason is `time`.",
    )
    seed: Seed = None
    model: ModelName = None
    stream: bool | None = Field(
        None,
        description="Answer with server-sent events. If omitted, the `Accept` header decides: the answer is a stream if the "
        "header prefers text/event-stream to JSON.",
    )
    logprobs: Logprobs = None
    echo: bool | None = Field(
        None, description="Begin the answer's text with start_string. If omitted, a JSON answer includes it and a stream does not."
    )
    on_unknown: OnUnknown = "error"
    pace: Pace | None = None
    regex: Regex | None = None
    choices: Choices | None = None
    json_schema: JsonSchema | str | None = Field(
        None, description="The generated text is JSON that is valid under this JSON Schema, an object or its text."
    )
    json_object: bool | None = Field(None, description="The generated text is a JSON object.")

    @model_validator(mode="after")
    def _check_constraint(self) -> Self:
        self.constraint  # noqa: B018 - raises for several
        return self

    @property
    def constraint(self) -> Constraint | None:
        """What the text is restricted to."""
        return only_constraint(regex=self.regex, choices=self.choices, json_schema=self.json_schema, json_object=self.json_object)


class GenerateQuery(GenerateRequest):
    """The same fields as query parameters. An empty parameter counts as absent."""

    stream: bool | None = Field(None, description="Ignored: the answer to GET is always a stream.")
    json_schema: str | None = Field(None, description="The generated text is JSON that is valid under this JSON Schema.")
    choices: Annotated[Choices, Field(max_length=MAX_STOP)] | None = None  # a URL cannot hold many

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        fields = {name: [item for item in given if item] if isinstance(given, list) else given for name, given in value.items()}
        return {name: given for name, given in fields.items() if given not in ("", [])}


class Alternative(BaseModel):
    character: str
    logprob: float = Field(
        description="Natural logarithm of the character's probability at temperature 1, without any other sampling option."
    )


class CharacterLogprob(Alternative):
    likeliest: list[Alternative] = Field(description="The most likely characters at this position, most likely first.")


class Usage(BaseModel):
    """Counts of characters."""

    prompt_characters: int = Field(description="Characters of start_string.")
    generated_characters: int


class Timings(BaseModel):
    """Durations of the phases, in milliseconds."""

    queue_ms: float = Field(description="Waiting for the constraint to be compiled, and for a slot.")
    prefill_ms: float = Field(description="From getting the slot to the first generated character.")
    decode_ms: float = Field(description="From the first generated character to the last.")
    characters_per_second: float = Field(description="Generated characters divided by the time of prefill and decode.")


class Done(BaseModel):
    """The data of the event `done`, which ends a stream: the answer without its text."""

    id: str
    model: str
    version: int
    engine: str
    precision: str
    start_string: str = Field(description="The start string after `on_unknown` was applied.")
    seed: int = Field(description="The seed used. Send it again to get the same text.")
    finish_reason: Literal["length", "stop", "time"] = Field(
        description="`length`: num_generate characters. `stop`: a stop string or a complete constrained text. `time`: max_time_ms."
    )
    usage: Usage
    timings: Timings
    state: str | None = Field(None, description="State token. Present if return_state is true.")


class GenerateResponse(Done):
    text: str = Field(description="start_string and the generated text. If echo is false, the generated text only.")
    logprobs: list[CharacterLogprob] | None = Field(
        None, description="One entry per generated character. Present if the request sets logprobs."
    )


class ScoreRequest(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "To be, or not to be: that is the question."}]})

    text: str = Field(
        min_length=1, description="Text to score. Each character after the first is scored given all characters before it."
    )
    model: ModelName = None
    surprising: int = Field(10, ge=0, le=1000, description="Number of least likely characters to list.")
    on_unknown: OnUnknown = "error"


class Surprise(CharacterLogprob):
    position: int = Field(description="Index of the character in the text, from 0.")


class ScoreResponse(BaseModel):
    model: str
    version: int
    engine: str
    precision: str
    text: str = Field(description="The text after `on_unknown` was applied.")
    scored_characters: int = Field(description="Number of characters that have a log-probability.")
    logprobs: list[float | None] = Field(
        description="Log-probability of each character given all characters before it. The first is null: nothing precedes it."
    )
    nats_per_character: float | None = Field(
        description="Negated mean of the log-probabilities. Null if the text has fewer than two characters."
    )
    perplexity: float | None = Field(description="exp(nats_per_character). Null if nats_per_character is null or exceeds 700.")
    surprising: list[Surprise] = Field(description="The least likely characters, least likely first.")


class VectorizeRequest(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "First Citizen"}]})

    text: str
    model: ModelName = None


class Unknown(BaseModel):
    """A character outside the vocabulary."""

    character: str
    position: int = Field(description="Index of the character in the text, from 0.")


class VectorizeResponse(BaseModel):
    model: str
    version: int
    ids: list[int | None] = Field(description="Id of each character; null for characters outside the vocabulary.")
    unknown: list[Unknown] = Field(description="Characters outside the vocabulary, in the order of the text.")


class ModelCard(BaseModel):
    """A served model."""

    name: str
    version: int
    default: bool = Field(description="True if this model serves requests that name no model.")
    parameters: int
    cell: str
    layers: int
    units: int
    vocabulary_size: int
    start_string: str = Field(description="A suggested start string: the first line of the model's sample.")
    characters: int = Field(description="Length of the corpus in characters, including the held-out part.")
    recipe: str = Field(description="Name of the training recipe.")
    created: str
    engine: str
    precision: str
    scores: dict[str, float | None] = Field(
        description="Loss of the float32 network on held-out text, in nats per character. `full_pass` carries the state through "
        "the whole text; `cold_256` reads windows of 256 characters, each from a zero state."
    )
    scores_as_served: dict[str, float | None] | None = Field(
        description="The same scores of the int8 network that the service runs. Null if they were not measured."
    )
    loss: str | None = Field(description="Path of the loss curve, a PNG image. Null if the version has none.")
    sample: str | None = Field(description="Path of sample texts. Null if the version has none.")


class ModelList(BaseModel):
    models: list[ModelCard]
    refused: list[str] = Field(
        description="Why versions or chat templates were rejected, and why the models folder cannot be read, one reason per item."
    )


class ModelDetails(ModelCard):
    config: VersionConfig = Field(description="The version's config.json.")
