"""/tokenize, /detokenize and /tokenizer_info, as in vLLM. A token is the id of a character. Some evaluation tools need them."""

from typing import Annotated, Self

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator
from pydantic_core import PydanticCustomError

from service.api.body_route import BodyRoute, JsonBody, json_response
from service.api.dependencies import CurrentRegistry
from service.api.errors import error_responses
from service.api.fields import ModelName, OnUnknown, RequestBody, Unsupported, Unused
from service.api.openai.messages import MAX_MESSAGES, ChatMessages, Message
from service.api.validation import check_length, default_on_unknown, read_text, read_tokens
from service.registry import Model
from service.settings import Settings
from trainer.tokenizer import tokenizer_config

router = APIRouter(tags=["scoring"], route_class=BodyRoute)

ERRORS = error_responses(404, 413, 415, 422, 503)


class TokenizeRequest(ChatMessages):
    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "First Citizen"}]})

    prompt: str | None = Field(None, description="Text to convert.")
    messages: Annotated[list[Message], Field(max_length=MAX_MESSAGES, fail_fast=True)] = Field(
        [], description="Chat to convert, instead of a prompt."
    )
    model: ModelName = None
    return_token_strs: bool = Field(False, description="Return the characters too.")
    on_unknown: OnUnknown | None = Field(
        None,
        description="How to treat characters outside the model's vocabulary, by default as /v1 does with such a prompt or chat.",
    )
    add_special_tokens: Unused = None
    chat_template: Unsupported = None
    chat_template_kwargs: Unused = None
    mm_processor_kwargs: Unused = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.prompt is None) == (not self.messages):
            raise PydanticCustomError("invalid_value", "send either prompt or messages")
        return self


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int = Field(description="Most characters of a prompt.")
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"tokens": [18, 47, 56, 57, 58]}]})

    tokens: Annotated[list[StrictInt], Field(fail_fast=True)]
    model: ModelName = None


class DetokenizeResponse(BaseModel):
    prompt: str


@router.post("/tokenize", response_model=TokenizeResponse, responses=ERRORS)
async def tokenize(request: Request, body: JsonBody[TokenizeRequest]) -> Response:
    """Converts a text or a chat to tokens: those that the network would read."""
    settings: Settings = request.app.state.settings
    model: Model = request.app.state.registry.get(body.model)
    if body.prompt is None:
        field, text, on_unknown = "messages", model.chat.render(body.turns, open_ended=body.continues), body.on_unknown or "skip"
    else:
        field, text, on_unknown = "prompt", body.prompt, body.on_unknown or default_on_unknown(model.vocabulary)
    check_length(field, len(text), settings.max_score)
    text, ids = read_text(model.vocabulary, text, on_unknown, field)
    return json_response(
        TokenizeResponse(
            count=len(ids),
            max_model_len=settings.max_start_string,
            tokens=ids.tolist(),
            token_strs=list(text) if body.return_token_strs else None,
        )
    )


@router.post("/detokenize", response_model=DetokenizeResponse, responses=ERRORS)
async def detokenize(request: Request, body: JsonBody[DetokenizeRequest]) -> Response:
    """Converts tokens to their text."""
    check_length("tokens", len(body.tokens), request.app.state.settings.max_score, "tokens")
    model: Model = request.app.state.registry.get(body.model)
    return json_response(DetokenizeResponse(prompt=read_tokens(model.vocabulary, body.tokens, "tokens")[0]))


@router.get("/tokenizer_info", responses=error_responses(503))
async def tokenizer_info(registry: CurrentRegistry) -> dict[str, object]:
    """The default model's tokenizer_config.json."""
    model = registry.get(None)
    return tokenizer_config(model.config.vocabulary, model.chat.jinja)
