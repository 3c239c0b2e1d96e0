"""Is the process alive, does it serve, and what has it done."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from service.api.dependencies import CurrentRegistry
from service.api.errors import error_responses

router = APIRouter(tags=["probes"])

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/health", include_in_schema=False)
@router.get("/ping", include_in_schema=False)
@router.get("/healthz", responses=error_responses(503))
async def healthz(registry: CurrentRegistry) -> Health:
    """The process answers, and no engine in it is dead or hangs."""
    registry.check_alive()
    return Health()


@router.get("/readyz", responses=error_responses(503))
async def readyz(registry: CurrentRegistry) -> Health:
    """Requests will be served; 503 with the reason until models are loaded and warm, and once the server is told to stop."""
    registry.check_ready()
    return Health()


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {EXPOSITION: {"schema": {"type": "string"}}}}, **error_responses(401, 429)},
)
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(request.app.state.metrics.exposition(), media_type=EXPOSITION)
