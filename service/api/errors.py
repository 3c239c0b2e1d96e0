"""Every error in one shape, OpenAI's: {"error": {"code", "message", "type", "param"}}."""

import re
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.generation.engine import EngineFailed, EngineStopped
from service.generation.scheduler import QueueFull
from service.registry import NotReady, UnknownModel


class ClientDisconnected(Exception):
    """The client left before the answer."""


class StreamEnded(Exception):
    """The stream to resume had already ended: 204."""


LONGEST_MESSAGE, LONGEST_PARAM = 2000, 200  # characters
LEFT = 499  # as nginx has it: nobody is there to be answered, but the log and the metrics say so
STATUSES = {
    401: "the server has API keys, and none of them came with the request (`missing_api_key`, `invalid_api_key`)",
    404: "no model of that name is served (`model_not_found`), or it has no such file (`not_found`)",
    410: "the version that an event's id or a state token is of is not served any more (`version_gone`)",
    400: "a field is invalid: `param` names it, `message` says what would be valid (`invalid_value`, `invalid_type`, "
    "`unknown_parameter`, `missing_required_parameter`, `unsupported_parameter`, `unsupported_value`, `context_length_exceeded`, "
    "`unknown_characters`, `too_long`, `too_many`, `invalid_json`, `invalid_encoding`)",
    413: "the body is longer than the server allows (`body_too_long`)",
    415: "the body is compressed in a way that the server does not support (`unsupported_encoding`)",
    421: "the request's Host is not one of the server's (`host_not_allowed`)",
    422: "a field is invalid: `param` names it, `message` says what would be valid (`invalid_value`, `unknown_characters`, "
    "`unsupported_value`, `too_long`, `invalid_json`, `invalid_encoding`, `invalid_state`, `invalid_event_id`, "
    "`other_request`, `too_many`)",
    429: "too many are waiting (`queue_full`), or this client has asked too often (`rate_limited`) or has too much open "
    "(`too_many_open`); Retry-After says when to come again",
    500: "the server failed (`internal_error`, `engine_failed`)",
    503: "the model is still being loaded, or none can be, or the server is stopping (`not_ready`, `engine_stopped`)",
}


OPENAI = "/v1/"  # what the paths of OpenAI's operations begin with
OPENAIS_CODES = {  # for pydantic's kinds of errors
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "unsupported_parameter": "unsupported_parameter",
    "unsupported_value": "unsupported_value",
}
UNSERVED = {  # what the paths of OpenAI's other operations, and Anthropic's, continue with
    *("assistants", "audio", "batches", "chat", "containers", "conversations", "embeddings", "evals", "files", "fine_tuning"),
    *("images", "messages", "moderations", "realtime", "responses", "threads", "uploads", "vector_stores", "videos"),
}
WITHOUT_V1 = re.compile(r"/(chat/completions|completions|embeddings|responses|messages)")


class ErrorDetail(BaseModel):
    code: str
    message: str
    type: str
    param: str | None = None


class ErrorBody(BaseModel):
    error: ErrorDetail


class ApiError(HTTPException):
    """An answer other than 2xx: its status and what its body says.

    An HTTPException because FastAPI lets no other exception through where it reads a body: it makes a 400 of it.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        message, param = message[:LONGEST_MESSAGE], param and param[:LONGEST_PARAM]  # they may quote what the client sent
        kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
        self.body = ErrorBody(error=ErrorDetail(code=code, message=_sendable(message), type=kind, param=param and _sendable(param)))

    def as_openais(self, code: str) -> "ApiError":
        """The same as OpenAI answers it: its clients take 400 for an invalid request, and branch on the code."""
        if self.status_code != 422:
            return self
        error = self.body.error
        return ApiError(400, code if error.code == "invalid_value" else error.code, error.message, param=error.param)

    def response(self) -> JSONResponse:
        return JSONResponse(self.body.model_dump(), self.status_code, self.headers)


def to_api_error(error: Exception) -> ApiError:
    """What a caller is told of an exception from anywhere below: the one place where each has its status."""
    match error:
        case ApiError():
            return error
        case UnknownModel():
            return ApiError(404, "model_not_found", str(error), param="model")
        case NotReady():
            return ApiError(503, "not_ready", str(error), headers={"Retry-After": "1"})
        case QueueFull():
            seconds = max(1, ceil(error.seconds))
            message = f"too many requests are waiting; try again in {seconds} s"
            return ApiError(429, "queue_full", message, headers={"Retry-After": str(seconds)})
        case EngineFailed():
            return ApiError(500, "engine_failed", str(error))
        case EngineStopped():
            return ApiError(503, "engine_stopped", str(error), headers={"Retry-After": "1"})
        case RequestValidationError():
            return _invalid(error)
        case HTTPException(status_code=400):  # FastAPI's word for a body that it could not decode
            return ApiError(
                422,
                "invalid_json",
                "the body could not be decoded as JSON in UTF-8, is nested too deeply, or has a number of thousands of digits",
            )
        case HTTPException():
            return ApiError(error.status_code, f"http_{error.status_code}", str(error.detail), headers=error.headers)
        case _:
            return ApiError(500, "internal_error", "the server failed; its log says how")


def _invalid(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(
            422,
            "invalid_json",
            f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}".replace(" at at ", " at "),
        )
    if first["loc"] == ("body",) and (first["type"] == "missing" or isinstance(error.body, bytes)):
        message = "a body is missing" if first["type"] == "missing" else "the body was not read as JSON"
        return ApiError(422, "invalid_value", f"{message}: send a JSON object with the header Content-Type: application/json")
    if first["loc"] == ("body",) and first["type"] in ("model_attributes_type", "model_type", "dict_type"):
        return ApiError(422, "invalid_value", "the body is JSON but no object: send fields in braces")
    # Without the part of the request and, below the field, pydantic's names for the branches of a union.
    parts = [str(part) for part in first["loc"][1:]]
    place = ".".join(parts[:1] + [part for part in parts[1:] if not re.search(r"[\[-]", part)]) or None
    said = "this field is unknown: check its spelling, or leave it out" if first["type"] == "extra_forbidden" else first["msg"]
    return ApiError(422, "invalid_value", f"{place}: {said}" if place else said, param=place)


def _no_such_path(path: str) -> ApiError:
    """What to do where a client asks for one of OpenAI's operations under another path, or for one that there is not."""
    if WITHOUT_V1.fullmatch(path):
        return ApiError(404, "http_404", f"{path} is not here: OpenAI's operations are under /v1, so set the base URL to .../v1")
    if path.startswith(OPENAI) and path.removeprefix(OPENAI).partition("/")[0] in UNSERVED:
        # Not 404: a gateway would take the model for gone.
        message = f"{path} is not supported: there are /v1/completions, /v1/chat/completions and /v1/models"
        return ApiError(400, "unsupported_endpoint", message)
    return ApiError(404, "http_404", f"there is no {path}; /docs lists what there is")


def _no_such_method(request: Request, allowed: str) -> ApiError:
    """allowed: by the router, which knows nothing of HEAD (see `service.middleware.paths`)."""
    methods = sorted({*allowed.split(", "), *(["HEAD"] if "GET" in allowed else [])})
    message = f"{request.scope['path']} does not take {request.scope['method']}: it takes {', '.join(methods)}"
    return ApiError(405, "http_405", message, headers={"Allow": ", ".join(methods)})


def _openais_code(error: Exception) -> str:
    """OpenAI's code for an error of pydantic's."""
    if not isinstance(error, RequestValidationError):
        return "invalid_value"
    kind = error.errors()[0]["type"]
    return OPENAIS_CODES.get(kind) or ("invalid_type" if kind.endswith(("_type", "_parsing", "_from_float")) else "invalid_value")


def install(app: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error.__cause__, ClientDisconnect):  # which FastAPI takes for a body that it can't parse
            return Response(status_code=LEFT)
        found = to_api_error(error)
        if found.status_code == 404 and found.body.error.code == "http_404":
            found = _no_such_path(request.scope["path"])
        if found.status_code == 405:
            found = _no_such_method(request, (found.headers or {}).get("Allow", ""))
        if request.scope["path"].startswith(OPENAI):
            found = found.as_openais(_openais_code(error))
        return found.response()

    async def nothing(_: Request, error: Exception) -> Response:
        return Response(status_code=204 if isinstance(error, StreamEnded) else LEFT)

    for kind in (HTTPException, UnknownModel, NotReady, QueueFull, EngineStopped, RequestValidationError):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(StreamEnded, nothing)
    app.add_exception_handler(ClientDisconnected, nothing)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a path operation that may answer these."""
    return {status: {"model": ErrorBody, "description": STATUSES[status]} for status in statuses}


def documented_openapi(build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The OpenAPI document without the 422 that FastAPI adds to OpenAI's operations: they answer 400."""
    document = build()
    for path, operations in document["paths"].items():
        if path.startswith(OPENAI):
            for operation in operations.values():
                operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document


def _sendable(text: str) -> str:
    """The text with lone surrogates escaped: they can't be sent as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
