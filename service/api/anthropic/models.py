"""The served models as Anthropic lists them, at /v1/models. See `service.api.openai.models`."""

from typing import Literal

from pydantic import BaseModel


class AnthropicModel(BaseModel):
    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int
    max_tokens: int


class AnthropicModels(BaseModel):
    """All on one page."""

    data: list[AnthropicModel]
    first_id: str
    last_id: str
    has_more: Literal[False] = False
