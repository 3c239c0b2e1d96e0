"""The answers of /v1/responses and of the operation that counts its input."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.api.openai.answers import Fingerprint, TokenLogprob

Status = Literal["in_progress", "completed", "incomplete", "failed"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(BaseModel):
    type: Literal["output_text"] = "output_text"
    text: str = ""
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []


class OutputMessage(BaseModel):
    type: Literal["message"] = "message"
    id: str
    status: ItemStatus = "in_progress"
    role: Literal["assistant"] = "assistant"
    content: list[OutputText] = []


class OutputCall(BaseModel):
    type: Literal["function_call"] = "function_call"
    id: str
    status: ItemStatus = "in_progress"
    call_id: str
    name: str
    arguments: str = Field("", description="JSON, valid under the tool's schema.")


class InputDetails(BaseModel):
    cached_tokens: int = Field(description="Characters of the input that were not read, because their state was cached.")
    cache_write_tokens: int = 0


class OutputDetails(BaseModel):
    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    """Counts of characters."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class ResponseError(BaseModel):
    code: Literal["server_error"] = "server_error"
    message: str


class IncompleteDetails(BaseModel):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class EchoedTool(BaseModel):
    type: Literal["function"] = "function"
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = True


class EchoedFields(BaseModel):
    """What an answer repeats of its request."""

    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: Any = {}
    parallel_tool_calls: bool
    reasoning: Any = {"effort": None, "summary": None}
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[EchoedTool]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    user: Any = None


class ResponsesAnswer(EchoedFields):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status = "in_progress"
    background: Literal[False] = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    output: list[OutputMessage | OutputCall] = []
    previous_response_id: None = None
    service_tier: Literal["default"] = "default"
    store: Literal[False] = False
    system_fingerprint: Fingerprint
    usage: ResponseUsage | None = None


class InputTokens(BaseModel):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
