"""Health checks and metrics: is the process alive, is it ready, and what has it done."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from service.api.dependencies import CurrentRegistry
from service.api.errors import error_responses
from service.registry import NotReady
from service.weather import Weather
from trainer import __version__

router = APIRouter(tags=["health"])

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class Health(BaseModel):
    status: Literal["ok", "degraded-by-plan"] = "ok"
    reason: str | None = None


@router.get("/health", include_in_schema=False, response_model_exclude_none=True)
@router.get("/ping", include_in_schema=False, response_model_exclude_none=True)
@router.get("/healthz", responses=error_responses(503), response_model_exclude_none=True)
async def healthz(request: Request, registry: CurrentRegistry) -> Health:
    """200 if the process is alive: no engine is dead or hangs. Otherwise 503 with the reason."""
    registry.check_alive()
    return _health(request)


@router.get("/readyz", responses=error_responses(503), response_model_exclude_none=True)
async def readyz(request: Request, registry: CurrentRegistry) -> Health:
    """200 if models are loaded, all engines work and the server is not shutting down. Otherwise 503 with the reason."""
    registry.check_ready()
    weather: Weather | None = request.app.state.weather
    if weather and (seconds := weather.startup_left):
        raise NotReady(f"the fault plan delays the start by another {seconds:.1f} s")
    return _health(request)


def _health(request: Request) -> Health:
    if request.app.state.weather:
        return Health(status="degraded-by-plan", reason="--faults or --fault-header is set: this server is for tests only")
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
