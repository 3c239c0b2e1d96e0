"""What requests and answers look like."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_SEED = 2**53 - 1  # what every JSON reader holds exactly

Temperature = Annotated[
    float, Field(ge=0, allow_inf_nan=False, description="1 samples as trained, less is safer, 0 always the likeliest")
]


class GenerateRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"start_string": "ROMEO: ", "temperature": 0.8, "num_generate": 200}]}
    )

    start_string: str = Field(min_length=1, description="the text to go on from; every character must be in the model's vocabulary")
    temperature: Temperature = 1.0
    num_generate: int = Field(1000, ge=1, description="characters to generate")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="same request, same seed, same text; drawn when not given")
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
    characters_per_second: float = Field(description="generated, from admission to the last character")


class Done(BaseModel):
    """The last event of a stream: an answer without its text."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    model: str
    version: int
    start_string: str
    seed: int
    finish_reason: Literal["length"]
    usage: Usage
    timings: Timings


class GenerateResponse(Done):
    text: str = Field(description="start_string and what was generated")
