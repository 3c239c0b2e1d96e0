"""create_app(settings) assembles settings, registry, routers and middlewares into an ASGI application."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from threading import Thread

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline  # its /docs needs no internet
from starlette.requests import ClientDisconnect

from service import notes
from service.api import error_handlers, errors, generate, health, models, playground, scoring, tokenizer
from service.api.anthropic import messages
from service.api.disconnect import no_answer
from service.api.ollama import chat as ollama_chat
from service.api.ollama import embed as ollama_embed
from service.api.ollama import models as ollama_models
from service.api.openai import chat, completions, embeddings
from service.api.openai import models as openai_models
from service.api.openai.responses import route as responses
from service.fault_plan import HEADER as FAULTS
from service.fault_plan import Plan, load
from service.generation.backends import open_backend
from service.generation.constraints.compiler import Compiler
from service.generation.core import EngineCore
from service.generation.engine import Engine
from service.included import included_models
from service.metrics import Metrics, ModelMetrics
from service.middleware.access import Access
from service.middleware.body_limit import BodyLimit
from service.middleware.cors import CORS
from service.middleware.hosts import Hosts
from service.middleware.paths import Paths
from service.middleware.request_log import RequestLog
from service.middleware.weather import WeatherMiddleware
from service.models_folder import holds_version
from service.registry import Registry
from service.settings import Settings
from service.tracing import trace
from service.weather import Weather
from trainer import __version__
from trainer.artifact import Version

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[!-~]{1,128}")
# FastAPI's own would send queries and messages of errors, which hold start strings. Where --tracing is set, `trace` sends spans.
NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
STUCK = 5  # seconds to wait for each thread at shutdown; a hanging volume or the loading of a large model may take longer


def create_app(settings: Settings) -> FastAPI:
    """The service. It loads models in the background; /readyz reports when they are loaded. Raises TracingMissing."""
    app = FastAPIOffline(
        redirect_slashes=False,
        title="Folio",
        version=__version__,
        description="A character-level recurrent network, served over REST and SSE.",
        lifespan=lambda app: _lifespan(app, settings),
        telemetry=NO_TELEMETRY,
    )
    _log_included(settings)
    _log_useless_aliases(settings)
    app.state.weather = _weather(settings)
    app.state.stuck = False  # after shutdown: whether a thread has not ended in time
    _add_routes(app, settings)
    _add_middlewares(app, settings)
    app.state.end_tracing = trace(app) if settings.tracing else lambda: None
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    loop, metrics = asyncio.get_running_loop(), Metrics(settings.metrics_prefix)
    registry = Registry(
        settings.models_dir,
        settings.default_model,
        lambda version: _open_engine(version, settings, loop, metrics),
        loop.call_soon_threadsafe,
        settings.model_aliases,
        settings.any_model,
    )
    metrics.watch(registry)
    app.state.settings, app.state.registry, app.state.metrics, app.state.compiler = settings, registry, metrics, Compiler()
    if app.state.weather:
        app.state.weather.count = metrics.planned_faults(app.state.weather.kinds)
    watching = _start(lambda: registry.watch(settings.watch))
    try:
        yield
    finally:
        registry.end("the server is shutting down")
        for thread in (watching, _start(registry.close)):
            await asyncio.to_thread(thread.join, STUCK)
            app.state.stuck |= thread.is_alive()
        app.state.compiler.close()
        await asyncio.to_thread(app.state.end_tracing)


def _log_included(settings: Settings) -> None:
    if "models_dir" not in settings.model_fields_set and settings.models_dir == included_models():
        log.info("there is no folder models in %s: serving the included model, %s", Path.cwd(), settings.models_dir)


def _log_useless_aliases(settings: Settings) -> None:
    for alias, name in settings.model_aliases.items():
        if not holds_version(settings.models_dir / name):
            log.warning("--aliases %s=%s has no effect yet: there is no model %s in %s", alias, name, name, settings.models_dir)


def _weather(settings: Settings) -> Weather | None:
    if settings.faults is None and not settings.fault_header:
        return None
    log.warning("for tests only: with --faults or --fault-header this server delays and fails requests on purpose")
    plan = Plan() if settings.faults is None else load(settings.faults)
    return Weather(plan, accepts_header=settings.fault_header)


def _open_engine(version: Version, settings: Settings, loop: asyncio.AbstractEventLoop, metrics: Metrics) -> Engine:
    """Raises Unsupported."""
    backend = open_backend(version, settings.backend, slots=settings.slots)
    log.info("%s %d uses the %s backend", version.config.name, version.config.version, backend.name)
    core = EngineCore(
        backend,
        queue_limit=settings.queue_limit,
        max_steps=settings.chunk,
        iteration_seconds=settings.call_ms / 1000,
        event_seconds=settings.event_ms / 1000,
        prompt_cache=int(settings.prompt_cache_mb * 1e6),
    )
    return Engine(core, loop, observer=ModelMetrics(metrics, version.config.name))


def _add_routes(app: FastAPI, settings: Settings) -> None:
    # This only documents keys in /docs. Access checks them.
    key = [Depends(HTTPBearer(auto_error=False, description="an API key"))] if settings.keys else []
    for part in (generate, scoring, tokenizer, models, completions, chat, responses, embeddings, openai_models):
        app.include_router(part.router, dependencies=key, responses=errors.error_responses(401, 421, 429, 500))
    app.include_router(messages.router, dependencies=key)
    ollamas_errors = errors.error_responses(401, 421, 429, 500, body=errors.OllamaErrorBody)
    for part in (ollama_chat, ollama_embed, ollama_models):
        app.include_router(part.router, prefix="/api", tags=["ollama"], dependencies=key, responses=ollamas_errors)
    app.include_router(health.router)
    app.include_router(playground.router)
    error_handlers.install(app)
    app.add_exception_handler(ClientDisconnect, no_answer)
    app.openapi = partial(error_handlers.openapi_without_422, app.openapi)  # type: ignore[method-assign]


def _add_middlewares(app: FastAPI, settings: Settings) -> None:
    """The last one is the outermost."""
    if app.state.weather:
        app.add_middleware(WeatherMiddleware, weather=app.state.weather)
    app.add_middleware(BodyLimit, limit=settings.max_body)
    app.add_middleware(Access, keys=settings.keys, rate_limit=settings.rate_limit, max_open=settings.max_open)
    app.add_middleware(Hosts, allowed=settings.hosts, any_address=settings.on_any_address)
    if settings.origins:
        app.add_middleware(
            CORS,
            allow_origins=settings.origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],  # clients send headers of their own; the API keys protect
            expose_headers=["Retry-After", "Request-Id", "X-Request-Id", *notes.HEADERS],
        )
    app.add_middleware(Paths)
    ignored_headers = {} if settings.fault_header else {FAULTS.lower().encode(): FAULTS}
    app.add_middleware(
        RequestLog,
        log_prompts=settings.log_prompts,
        ignore_unknown_fields=settings.unknown_fields == "ignore",
        ignored_headers=ignored_headers,
    )
    app.add_middleware(
        CorrelationIdMiddleware, header_name="X-Request-Id", validator=lambda given: bool(REQUEST_ID.fullmatch(given))
    )


def _start(function: Callable[[], None]) -> Thread:
    """Runs a function in a daemon thread. At exit the process would wait for a thread of asyncio's executor."""
    thread = Thread(target=function, daemon=True)
    thread.start()
    return thread
