"""What OpenAI's operations return."""

from typing import Literal

from pydantic import BaseModel, Field


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
    system_fingerprint: str = Field(description="the version, its weights, the arithmetic: a seed's text depends on them")
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
    system_fingerprint: str = Field(description="the version, its weights, the arithmetic: a seed's text depends on them")
    choices: list[ChatChoice]
    usage: TokenUsage


class ServedModel(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["folio"] = "folio"
    root: str = Field(description="the same as id: vLLM's name for what an adapter is based on")


class ServedModels(BaseModel):
    object: Literal["list"] = "list"
    data: list[ServedModel]
