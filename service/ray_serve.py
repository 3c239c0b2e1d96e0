"""The service on a Ray cluster: `serve run service.ray_serve:app`, with the extra `cluster`. The same application, in replicas.

Each replica has an engine of its own, which does its own batching (Ray's batches can't be joined while they run). All share one
models folder and know nothing of each other: any of them takes any event's id and state token.
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
    """How many, and what each may use: `serve run service.ray_serve:app min_replicas=2 gpus=1`."""

    model_config = ConfigDict(extra="forbid")

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(8, ge=1)
    target_ongoing_requests: float = Field(32, gt=0)  # per replica; the autoscaler's target
    cpus: float = Field(1, ge=0)
    gpus: float = Field(0, ge=0)


@serve.ingress()
class Replica:
    """The application in an actor, behind Ray's proxies."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        logs.configure(self._settings.log_format)
        # Ray listens, on whatever addresses: requests may name any of them as their Host.
        self._app = create_app(self._settings.model_copy(update={"host": "0.0.0.0"}))  # noqa: S104
        self._app.router.lifespan_context = _loaded(self._app.router.lifespan_context)
        return self._app

    def check_health(self) -> None:
        """Raises, so that Ray replaces the replica, while an engine is dead and no refresh has put another in its place."""
        self._app.state.registry.check_alive()


def app(replicas: Replicas) -> Application:
    """What `serve run` starts. Settings are the SERVICE_* variables where it runs; all replicas get the same, and one secret."""
    settings = Settings()
    deployed = serve.deployment(
        name="folio",
        # More than an engine takes, and no limit on the way to it: the engine is to answer 429, for it knows when to try again.
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
    """The application's lifespan, but not begun until models are loaded: only then does Ray send requests."""

    @asynccontextmanager
    async def loaded(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app):
            await asyncio.to_thread(app.state.registry.wait_until_loaded)
            yield

    return loaded
