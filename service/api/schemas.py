"""What requests and answers look like."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_SEED = 2**53 - 1  # what every JSON reader holds exactly
MAX_STOP = 16  # stop strings

Temperature = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="1 samples as trained, less is safer, 0 always the likeliest")
]

StopString = Annotated[str, Field(min_length=1, max_length=1000)]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class GenerateRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"start_string": "ROMEO: ", "temperature": 0.8, "num_generate": 200}]}
    )

    start_string: str = Field(min_length=1, description="the text to go on from; every character must be in the model's vocabulary")
    temperature: Temperature = 1.0
    top_k: int | None = Field(None, ge=1, description="draw from the k likeliest characters only")
    top_p: float = Field(
        1.0, gt=0, le=1, description="draw from the fewest likeliest characters whose probabilities reach this (nucleus sampling)"
    )
    min_p: float = Field(0.0, ge=0, le=1, description="draw only characters at least this many times as likely as the likeliest")
    allowed_characters: str | None = Field(None, min_length=1, max_length=10_000, description="draw these characters only")
    stop: Annotated[
        list[StopString],
        Field(max_length=MAX_STOP, description=f"a string or up to {MAX_STOP}; the text ends before the first that comes"),
        BeforeValidator(_listed, json_schema_input_type=str | list[str]),
    ] = []
    num_generate: int = Field(1000, ge=1, description="characters to generate")
    max_time_ms: int | None = Field(
        None, ge=1, le=86_400_000, description="end after this time, in the queue or not, with what there is by then"
    )
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="same request, same seed, same text, unless time ends it; drawn when not given"
    )
    model: str | None = Field(None, description="a model's name; the default one when not given")
    stream: bool = Field(False, description="answer with server-sent events, as `Accept: text/event-stream` does")


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
    start_string: str
    seed: int
    finish_reason: Literal["length", "stop", "time"]
    usage: Usage
    timings: Timings


class GenerateResponse(Done):
    text: str = Field(description="start_string and what was generated")
