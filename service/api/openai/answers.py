"""Answers of OpenAI's operations."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from service.registry import Model

Fingerprint = Annotated[
    str,
    Field(
        description="Identifies the version, its weights and the arithmetic. A seed reproduces a text only at the same fingerprint."
    ),
]


def fingerprint_of(model: Model) -> str:
    return f"{model.config.version}-{model.weights_digest}-{model.arithmetic}"


class PromptTokensDetails(BaseModel):
    cached_tokens: int = Field(description="Characters of the prompts that were not read, because their state was cached.")


class TokenUsage(BaseModel):
    """Counts of characters."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int] = Field(description="Index of each character in the prompt and text together.")


UsageChunks = Literal["none", "last", "always"]  # which chunks of a stream hold the usage
FinishReason = Literal["length", "stop", "tool_calls", "function_call"]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """Each chunk of a stream has the same form."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: Fingerprint
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


def _absent(value: object) -> bool:
    return value is None


class FunctionCall(BaseModel):
    name: str
    arguments: str = Field(description="JSON, valid under the tool's schema.")


class ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = Field(None, exclude_if=_absent)
    function_call: FunctionCall | None = Field(None, exclude_if=_absent)


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
    system_fingerprint: Fingerprint
    choices: list[ChatChoice]
    usage: TokenUsage


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Counts of characters."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ServedModel(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["folio"] = "folio"
    root: str = Field(description="The model's name. `id` may be an alias of it.")


class ServedModels(BaseModel):
    object: Literal["list"] = "list"
    data: list[ServedModel]
