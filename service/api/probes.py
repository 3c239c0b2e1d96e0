"""Is the process alive, does it serve, and what has it done."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from service.api.dependencies import CurrentRegistry
from service.api.errors import documented

router = APIRouter(tags=["probes"])

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz", responses=documented(503))
async def readyz(registry: CurrentRegistry) -> Health:
    """Requests will be served; 503 with the reason until the models are loaded and warm."""
    registry.check_ready()
    return Health()


@router.get("/metrics", response_class=Response, responses={200: {"content": {EXPOSITION: {"schema": {"type": "string"}}}}})
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(request.app.state.metrics.exposition(), media_type=EXPOSITION)
