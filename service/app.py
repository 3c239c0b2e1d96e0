"""create_app(settings): wires settings, registry and routers into one ASGI application."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline  # its /docs needs no internet

from service.api import errors, generate, models, openai, page, probes, scoring
from service.api.limits import BodyLimit
from service.generation.choice import choose, open_decoder
from service.generation.engine import Engine
from service.metrics import Metrics
from service.registry import Registry
from service.settings import Settings
from trainer.artifact import Version

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The service. It listens at once; models load beside it, and /readyz says when they serve."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def open_engine(version: Version) -> Engine:
            name = choose() if settings.decoder == "auto" else settings.decoder
            precision = None if settings.precision == "auto" else settings.precision
            decoder = open_decoder(version, name, precision, slots=settings.slots)
            log.info("%s %d runs on %s in %s", version.config.name, version.config.version, decoder.name, decoder.precision)
            return Engine(
                decoder,
                loop,
                queue_limit=settings.queue_limit,
                chunk=settings.chunk,
                call_seconds=settings.call_ms / 1000,
                prompt_cache=int(settings.prompt_cache_mb * 1e6),
                observer=metrics.of(version.config.name),
            )

        metrics = app.state.metrics = Metrics(lambda: registry)
        app.state.settings = settings
        app.state.registry = registry = Registry(
            settings.models_dir, settings.default_model, open_engine, loop.call_soon_threadsafe
        )
        watching = asyncio.create_task(asyncio.to_thread(registry.watch, settings.watch))
        try:
            yield
        finally:
            registry.end("the server is shutting down")
            await watching
            await asyncio.to_thread(registry.close)

    app = FastAPIOffline(
        title="Folio", description="A character-level recurrent network, served over REST and SSE.", lifespan=lifespan
    )
    for part in (generate, scoring, models, openai, probes, page):
        app.include_router(part.router)
    app.add_middleware(BodyLimit, limit=settings.max_body)
    errors.install(app)
    return app
