"""Health checks and metrics: is the process alive, is it ready, and what has it done."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from service.api.dependencies import CurrentRegistry
from service.api.errors import error_responses
from trainer import __version__

router = APIRouter(tags=["health"])

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/health", include_in_schema=False)
@router.get("/ping", include_in_schema=False)
@router.get("/healthz", responses=error_responses(503))
async def healthz(registry: CurrentRegistry) -> Health:
    """200 if the process is alive: no engine is dead or hangs. Otherwise 503 with the reason."""
    registry.check_alive()
    return Health()


@router.get("/readyz", responses=error_responses(503))
async def readyz(registry: CurrentRegistry) -> Health:
    """200 if models are loaded. 503 with the reason until then, and once the server is stopping."""
    registry.check_ready()
    return Health()


@router.get("/version", responses=error_responses(401, 429))
async def version() -> dict[str, str]:
    """The service's version."""
    return {"version": __version__}


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {EXPOSITION: {"schema": {"type": "string"}}}}, **error_responses(401, 429)},
)
async def metrics(request: Request) -> Response:
    """Metrics in the text format of Prometheus."""
    return Response(request.app.state.metrics.exposition(), media_type=EXPOSITION)
