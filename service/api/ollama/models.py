"""Ollama's operations on models: /api/tags, /api/ps, /api/show and /api/version."""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from service.api.body_route import AnyTypeRoute, JsonBody, json_response
from service.api.dependencies import CurrentRegistry, named_models
from service.api.errors import OllamaErrorBody, error_responses
from service.api.ollama.requests import LATEST, ShowRequest
from service.registry import Model, Registry
from service.settings import Settings
from trainer import __version__

router = APIRouter(route_class=AnyTypeRoute)

NEVER = "9999-12-31T23:59:59Z"
TEMPLATE = "{{ if .System }}{{ .System }}{{ end }}{{ if .Tools }}{{ .Tools }}{{ end }}{{ .Prompt }}"  # clients look for .Tools


class OllamaDetails(BaseModel):
    parent_model: str = ""
    format: str = "safetensors"
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class ListedModel(BaseModel):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class Tags(BaseModel):
    models: list[ListedModel]


class LoadedModel(ListedModel):
    expires_at: str = NEVER
    size_vram: int = 0
    context_length: int


class LoadedModels(BaseModel):
    models: list[LoadedModel]


class ShownModel(BaseModel):
    modelfile: str
    parameters: str = ""
    template: str = TEMPLATE
    modified_at: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str] = ["completion", "tools"]


class VersionNumber(BaseModel):
    version: str


@router.get("/tags", responses=error_responses(503, body=OllamaErrorBody))
async def tags(request: Request) -> Tags:
    """The models that are served, and their aliases."""
    named = named_models(request).items()
    return Tags(models=[ListedModel(**_listed(name, model)) for name, model in named if not name.endswith(LATEST)])


@router.get("/ps", responses=error_responses(503, body=OllamaErrorBody))
async def ps(request: Request, registry: CurrentRegistry) -> LoadedModels:
    """The models in memory: all that are served."""
    settings: Settings = request.app.state.settings
    length = settings.max_start_string
    return LoadedModels(
        models=[LoadedModel(**_listed(model.config.name, model), context_length=length) for model in registry.models]
    )


@router.post("/show", response_model=ShownModel, responses=error_responses(400, 404, 413, 415, 503, body=OllamaErrorBody))
async def show(request: Request, body: JsonBody[ShowRequest]) -> Response:
    """One served model."""
    registry: Registry = request.app.state.registry
    settings: Settings = request.app.state.settings
    config = (model := registry.get(body.model or body.name)).config
    info = {
        "general.architecture": config.cell,
        "general.basename": config.name,
        "general.parameter_count": config.parameters,
        f"{config.cell}.block_count": config.layers,
        f"{config.cell}.context_length": settings.max_start_string,
        f"{config.cell}.embedding_length": config.units,
    }
    shown = ShownModel(
        modelfile=f"FROM {config.name}{LATEST}\n", modified_at=config.created, details=_details(model), model_info=info
    )
    return json_response(shown)


@router.get("/version")
async def version() -> VersionNumber:
    """The server's version."""
    return VersionNumber(version=__version__)


def _listed(name: str, model: Model) -> dict[str, Any]:
    config, name = model.config, name if ":" in name else f"{name}{LATEST}"
    return {
        "name": name,
        "model": name,
        "modified_at": config.created,
        "size": config.parameters,  # bytes: one for each weight
        "digest": config.sha256.weights,
        "details": _details(model),
    }


def _details(model: Model) -> OllamaDetails:
    config = model.config
    return OllamaDetails(
        family=config.cell,
        families=[config.cell],
        parameter_size=f"{config.parameters / 1e6:.1f}M",
        quantization_level=model.precision,
    )
