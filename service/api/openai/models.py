"""/v1/models: the served models as OpenAI lists them."""

from datetime import datetime

from fastapi import APIRouter

from service.api.dependencies import CurrentRegistry
from service.api.errors import error_responses
from service.api.openai.answers import ServedModel, ServedModels
from service.registry import Model

router = APIRouter(prefix="/v1", tags=["openai"])


@router.get("/models", responses=error_responses(503))
async def models(registry: CurrentRegistry) -> ServedModels:
    """The models that are served."""
    return ServedModels(data=[_served(model) for model in registry.models])


@router.get("/models/{name}", responses=error_responses(400, 404, 503))
async def model(name: str, registry: CurrentRegistry) -> ServedModel:
    """One served model."""
    return _served(registry.get(name))


def _served(model: Model) -> ServedModel:
    name, created = model.config.name, datetime.fromisoformat(model.config.created)
    return ServedModel(id=name, root=name, created=int(created.timestamp()))
