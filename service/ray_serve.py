"""The service on a Ray cluster: `serve run service.ray_serve:app`, with the extra `cluster`.

Each replica runs the whole application with an engine that does its own batching, since Ray cannot add requests to a running batch.
Replicas share one models folder and no state: each accepts event ids and state tokens of the others.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig

from service import logs
from service.app import create_app
from service.settings import Settings


class Replicas(BaseModel):
    """Arguments of the application: `serve run service.ray_serve:app min_replicas=2 gpus=1`."""

    model_config = ConfigDict(extra="forbid")

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(8, ge=1)
    target_ongoing_requests: float = Field(32, gt=0)  # per replica, for the autoscaler
    cpus: float = Field(1, ge=0)
    gpus: float = Field(0, ge=0)


@serve.ingress()
class Replica:
    """The application in a Ray actor."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        logs.configure(self._settings.log_format)
        # Ray chooses the addresses to listen on, so any of them is a valid Host.
        self._app = create_app(self._settings.model_copy(update={"host": "0.0.0.0"}))  # noqa: S104
        self._app.router.lifespan_context = _loaded(self._app.router.lifespan_context)
        return self._app

    def check_health(self) -> None:
        """Raises while an engine is dead and has not been replaced, so that Ray restarts the replica."""
        self._app.state.registry.check_alive()


def app(replicas: Replicas) -> Application:
    """Called by `serve run`. All replicas get the settings of the SERVICE_* variables there, and the same secret."""
    settings = Settings()
    deployed = serve.deployment(
        name="folio",
        # Above the engine's own limit, so that the engine responds with 429 and the time to retry, not Ray.
        max_ongoing_requests=2 * (settings.slots + settings.queue_limit),
        max_queued_requests=-1,
        autoscaling_config=AutoscalingConfig(
            min_replicas=replicas.min_replicas,
            max_replicas=replicas.max_replicas,
            target_ongoing_requests=replicas.target_ongoing_requests,
        ),
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        health_check_period_s=1,
        graceful_shutdown_timeout_s=settings.shutdown_grace,
    )
    return deployed(Replica).bind(settings)


def _loaded(lifespan: Callable[[Any], AbstractAsyncContextManager[Any]]) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """A lifespan whose start waits until models are loaded, because Ray sends requests once it has started."""

    @asynccontextmanager
    async def loaded(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            await asyncio.to_thread(app.state.registry.wait_until_loaded)
            yield

    return loaded
