"""Is the process alive, and does it serve."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from service.api.dependencies import CurrentRegistry
from service.api.errors import documented

router = APIRouter(tags=["probes"])


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
