"""/v1/models: the served models as OpenAI lists them, or as Anthropic does for its clients."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from service.api.body_route import json_response
from service.api.dependencies import CurrentRegistry, named_models
from service.api.errors import error_responses, is_anthropics
from service.api.openai.answers import ServedModel, ServedModels
from service.registry import Model

router = APIRouter(prefix="/v1", tags=["openai"])


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


@router.get("/models", response_model=ServedModels, responses=error_responses(503))
async def models(request: Request) -> Response:
    """The models that are served, and their aliases. With the header `anthropic-version`, in Anthropic's format."""
    if is_anthropics(request.scope):
        found = [_anthropics(request, name, model) for name, model in named_models(request).items()]
        return json_response(AnthropicModels(data=found, first_id=found[0].id, last_id=found[-1].id))
    return json_response(ServedModels(data=[_served(name, model) for name, model in named_models(request).items()]))


@router.get("/models/{name:path}", response_model=ServedModel, responses=error_responses(400, 404, 503))
async def model(name: str, request: Request, registry: CurrentRegistry) -> Response:
    """One served model. With the header `anthropic-version`, in Anthropic's format."""
    found = registry.get(name)
    name = name if name in named_models(request) else found.config.name
    return json_response(_anthropics(request, name, found) if is_anthropics(request.scope) else _served(name, found))


def _served(name: str, model: Model) -> ServedModel:
    created = datetime.fromisoformat(model.config.created)
    return ServedModel(id=name, root=model.config.name, created=int(created.timestamp()))


def _anthropics(request: Request, name: str, model: Model) -> AnthropicModel:
    settings = request.app.state.settings
    return AnthropicModel(
        id=name,
        display_name=name,
        created_at=model.config.created,
        max_input_tokens=settings.max_start_string,
        max_tokens=settings.max_num_generate,
    )
