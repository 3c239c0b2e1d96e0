"""/models: the models that are served, their configuration, losses and samples."""

import asyncio
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from service.api.dependencies import CurrentRegistry
from service.api.errors import ApiError, error_responses
from service.api.schemas import ModelCard, ModelDetails, ModelList
from service.models_folder import SAMPLE
from service.registry import Model, Registry
from trainer.tokenizer import tokenizer_config, tokenizer_json

router = APIRouter(prefix="/models", tags=["models"])

LOSS = "loss.png"
JSON = {"application/json": {"schema": {"type": "object"}}}
ERRORS = error_responses(404, 422, 503)


@router.get("", responses=error_responses(503))
async def models(registry: CurrentRegistry) -> ModelList:
    """The models that are served."""
    return ModelList(
        models=[ModelCard.model_validate(_card(model, registry)) for model in registry.models], refused=registry.refusals.reasons
    )


@router.get("/{name}", responses=ERRORS)
async def model(name: str, registry: CurrentRegistry) -> ModelDetails:
    """A model, with its whole config.json."""
    found = registry.get(name)
    return ModelDetails.model_validate(_card(found, registry) | {"config": found.config})


@router.get(
    "/{name}/loss.png",
    response_class=FileResponse,
    responses={200: {"content": {"image/png": {}}}, **ERRORS},
)
async def loss(name: str, registry: CurrentRegistry) -> FileResponse:
    """The losses of the training run by epoch, as an image."""
    return FileResponse(await _file(registry.get(name), LOSS), media_type="image/png")


@router.get(
    "/{name}/sample.txt",
    response_class=FileResponse,
    responses={200: {"content": {"text/plain": {}}}, **ERRORS},
)
async def sample(name: str, registry: CurrentRegistry) -> FileResponse:
    """Texts that the model generated when it was published."""
    return FileResponse(await _file(registry.get(name), SAMPLE), media_type="text/plain; charset=utf-8")


@router.get("/{name}/tokenizer.json", response_class=Response, responses={200: {"content": JSON}, **ERRORS})
async def tokenizer(name: str, registry: CurrentRegistry) -> Response:
    """The vocabulary as a Hugging Face tokenizer, with one token per character."""
    return Response(tokenizer_json(registry.get(name).config.vocabulary), media_type="application/json")


@router.get("/{name}/tokenizer_config.json", responses=ERRORS)
async def config_of_tokenizer(name: str, registry: CurrentRegistry) -> dict[str, object]:
    """The tokenizer's configuration for the transformers library, with the chat template."""
    found = registry.get(name)
    return tokenizer_config(found.config.vocabulary, found.chat.jinja)


async def _file(model: Model, name: str) -> Path:
    path = model.path / name
    if not await asyncio.to_thread(path.is_file):  # checked now, because the volume may be lost
        raise ApiError(404, "not_found", f"version {model.config.version} of {model.config.name} has no {name}")
    return path


def _card(model: Model, registry: Registry) -> dict[str, object]:
    config = model.config

    def link(name: str) -> str | None:
        return f"/models/{config.name}/{name}" if name in model.files else None

    return {
        **config.model_dump(
            include={"name", "version", "parameters", "cell", "layers", "units", "characters", "recipe", "created"}
        ),
        "default": registry.is_default(model),
        "vocabulary_size": len(config.vocabulary),
        "start_string": model.start_string,
        "engine": model.engine_name,
        "precision": model.precision,
        "scores": config.scores.model_dump(exclude={"as_served"}),
        "scores_as_served": config.scores.as_served and config.scores.as_served.model_dump(),
        "loss": link(LOSS),
        "sample": link(SAMPLE),
    }
