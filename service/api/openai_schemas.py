"""What OpenAI's operations take and give, as far as a character model can, and a few more fields.

What can't be served is refused.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from service.api.schemas import AllowedCharacters, MinP, OnUnknown, Pace, Seed, Stop, Temperature, TopK, TopP
from service.generation.decoder import LIKELIEST

Text = Annotated[str, Field(min_length=1)]
MAX_PROMPTS, MAX_MESSAGES = 2_048, 10_000
Unserved = Annotated[None, Field(description="not served: leave it out or null")]
Zero = Annotated[float, Field(ge=0, le=0, description="not served: 0 or left out")]


class RequestBody(BaseModel):
    """A body: null counts as not given, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


class StreamOptions(RequestBody):
    include_usage: bool = False
    include_obfuscation: bool = Field(False, description="taken and not needed: nothing here is secret")


class Sampled(RequestBody):
    """What both operations take."""

    model: str | None = Field(None, description="a model's name; the default one when not given")
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    n: int = Field(1, ge=1, description="continuations of each prompt; that number i is drawn with seed + i")
    stop: Stop = []
    seed: Seed | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: Zero = 0
    frequency_penalty: Zero = 0
    logit_bias: Annotated[dict[str, float], Field(max_length=0, description="not served: see allowed_characters")] = {}
    user: str | None = Field(None, description="taken and not used")
    metadata: dict[str, str] | None = Field(None, description="taken and not used")
    store: Literal[False] | None = Field(None, description="nothing is stored")

    top_k: TopK | None = None
    min_p: MinP = 0.0
    allowed_characters: AllowedCharacters | None = None
    pace: Pace | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(Sampled):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "shakespeare", "prompt": "ROMEO: ", "max_tokens": 100}]})

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)] = Field(
        description="the text to go on from, or several"
    )
    max_tokens: int = Field(16, ge=0, description="characters to generate: a token is a character; 0 with echo scores the prompt")
    logprobs: int | None = Field(None, ge=0, le=LIKELIEST, description="log-probabilities, and those of so many of the likeliest")
    echo: bool = Field(False, description="the text begins with the prompt")
    suffix: Unserved = None
    best_of: Annotated[int, Field(ge=1, le=1, description="not served: 1 or left out")] = 1
    on_unknown: OnUnknown = "error"


class TextPart(RequestBody):
    type: Literal["text"]
    text: str


def _joined(value: Any) -> Any:
    """Content as a list of text parts is their text."""
    if isinstance(value, list):
        return "".join(TextPart.model_validate(part).text for part in value)
    return "" if value is None else value


class Message(RequestBody):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str, BeforeValidator(_joined, json_schema_input_type=str | list[TextPart] | None)] = ""
    name: str | None = Field(None, description="the speaker's name, instead of the role's")


class TextFormat(RequestBody):
    type: Literal["text"]


class ChatRequest(Sampled):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "shakespeare", "messages": [{"role": "user", "content": "Who art thou?"}]}]}
    )

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_tokens: int | None = Field(None, ge=1, description="most characters to generate: a token is a character")
    max_completion_tokens: int | None = Field(None, ge=1, description="the same by its newer name")
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=LIKELIEST, description="so many of the likeliest characters, with logprobs")
    response_format: TextFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0, description="not served")] = []
    on_unknown: OnUnknown = "skip"


class TokenUsage(BaseModel):
    """Counts of characters."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int] = Field(description="where each character stands, the prompt counted")


FinishReason = Literal["length", "stop"]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """Streamed in parts of the same form."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str = Field(description="version, engine and precision: what a seed's text depends on besides")
    choices: list[CompletionChoice]
    usage: TokenUsage | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class ChatMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str = Field(description="version, engine and precision: what a seed's text depends on besides")
    choices: list[ChatChoice]
    usage: TokenUsage


class ServedModel(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["folio"] = "folio"


class ServedModels(BaseModel):
    object: Literal["list"] = "list"
    data: list[ServedModel]
