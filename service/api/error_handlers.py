"""What FastAPI does with exceptions, and with paths and methods that do not exist."""

import re
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Mount

from service.api.errors import OLLAMA, OPENAI, ApiError, StreamEnded, error_schemas, to_api_error
from service.fault_plan import InvalidPlan
from service.generation.engine import EngineStopped
from service.generation.scheduler import QueueFull
from service.registry import NotReady, UnknownModel
from service.weather import PlannedFault

UNSERVED = {  # first parts, after /v1/, of other paths of OpenAI's and Anthropic's APIs
    *("assistants", "audio", "batches", "chat", "containers", "conversations", "evals", "files", "fine_tuning"),
    *("images", "messages", "moderations", "realtime", "responses", "threads", "uploads", "vector_stores", "videos"),
}
NEVER_SERVED = re.compile(r"/api/(pull|push|create|copy|delete|blobs/.*)")  # Ollama's operations that change models
WITHOUT_V1 = re.compile(r"/(chat/completions|completions|embeddings|responses|messages)")


def _no_such_path(path: str) -> ApiError:
    """404, or a hint for a path of OpenAI's API that is misspelled or not supported."""
    if WITHOUT_V1.fullmatch(path):
        return ApiError(404, "http_404", f"there is no {path}: OpenAI's operations are under /v1, so set the base URL to .../v1")
    if path.startswith("/v1/v1/"):
        return ApiError(404, "http_404", f"there is no {path}: this client adds /v1 itself, so set the base URL without it")
    if path.startswith(OPENAI) and path.removeprefix(OPENAI).partition("/")[0] in UNSERVED:
        # Neither 404 nor 501: the LiteLLM proxy would take the model out of service for a while, and clients would try 501 again.
        why = "this server stores no responses" if path.startswith(f"{OPENAI}responses/") else "/docs lists the paths"
        return ApiError(400, "unsupported_endpoint", f"{path} is not supported: {why}")
    if NEVER_SERVED.fullmatch(path):
        message = f"{path} is not supported: models are versions in the server's models folder, which clients cannot change"
        return ApiError(400, "unsupported_endpoint", message)
    return ApiError(404, "http_404", f"there is no {path}; /docs lists the paths")


def _no_such_method(request: Request) -> ApiError:
    root = request.scope.get("app_root_path", request.scope.get("root_path", ""))  # a mount has changed the second one
    scope = {**request.scope, "root_path": root}

    def serves(method: str) -> bool:
        routes = [route for route in request.app.routes if method == "GET" or not isinstance(route, Mount)]  # mounts have files
        return any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)

    # The routes do not know HEAD: see `service.middleware.paths`.
    found = [("GET, HEAD" if method == "GET" else method) for method in ("DELETE", "GET", "PATCH", "POST", "PUT") if serves(method)]
    methods = ", ".join(found)
    message = f"{request.scope['path']} does not support {request.scope['method']}: use {methods}"
    return ApiError(405, "http_405", message, headers={"Allow": methods})


def install(app: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        found = to_api_error(error)
        if isinstance(error, PlannedFault):
            return found.response(request.scope)  # exactly as planned
        if found.status_code == 404 and found.body.error.code == "http_404":
            found = _no_such_path(request.scope["path"])
        if found.status_code == 405:
            found = _no_such_method(request)
        if request.scope["path"].startswith((OPENAI, OLLAMA)):
            found = found.as_openais()
        return found.response(request.scope)

    async def nothing_left(_: Request, __: Exception) -> Response:
        return Response(status_code=204)

    for kind in (
        HTTPException,
        UnknownModel,
        NotReady,
        QueueFull,
        EngineStopped,
        PlannedFault,
        InvalidPlan,
        RequestValidationError,
    ):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(StreamEnded, nothing_left)


def openapi_without_422(build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The OpenAPI document with the errors' schemas, and without the 422 that FastAPI adds to operations that use 400."""
    document = build()
    for path, operations in document["paths"].items():
        if path.startswith((OPENAI, OLLAMA)):
            for operation in operations.values():
                operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    document["components"]["schemas"] |= error_schemas()
    return document
