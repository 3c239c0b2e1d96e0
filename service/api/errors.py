"""Errors as HTTP responses, in OpenAI's format, {"error": {"code", "message", "type", "param"}}, or that of the path's protocol."""

import re
from collections.abc import Mapping
from math import ceil
from typing import Any, Literal

from asgi_correlation_id import correlation_id
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.types import Scope

from service.fault_plan import HEADER as FAULTS
from service.fault_plan import InvalidPlan
from service.generation.engine import EngineFailed, EngineStopped
from service.generation.scheduler import QueueFull
from service.registry import NotReady, UnknownModel
from service.weather import PlannedFault


class StreamEnded(Exception):
    """The stream to resume has already ended. The response is 204."""


MAX_MESSAGE, MAX_PARAM = 2000, 200  # characters
INVALID = "A field is invalid. `param` names it, and `message` says what is valid"
STATUSES = {
    400: f"{INVALID} (`invalid_value`, `invalid_type`, `unknown_parameter`, `missing_required_parameter`, "
    "`unsupported_parameter`, `unsupported_value`, `context_length_exceeded`, `unknown_characters`, `too_long`, `too_many`, "
    "`invalid_json`, `invalid_encoding`).",
    401: "The server requires an API key, and the request has none (`missing_api_key`) or a wrong one (`invalid_api_key`).",
    404: "No model of that name is served (`model_not_found`), or the model has no such file (`not_found`).",
    410: "The event id or state token belongs to a version that is no longer served (`version_gone`).",
    413: "The body is longer than the server allows (`body_too_long`).",
    415: "The server does not support the compression of the body (`unsupported_encoding`).",
    421: "The `Host` header names another server (`host_not_allowed`).",
    422: f"{INVALID} (`invalid_value`, `unknown_characters`, `unsupported_value`, `too_long`, `invalid_json`, `invalid_encoding`, "
    "`invalid_state`, `invalid_event_id`, `other_request`, `too_many`).",
    429: "The queue is full (`queue_full`), or this client exceeded its rate limit (`rate_limited`) or its number of concurrent "
    "requests (`too_many_open`). Retry after the time in `Retry-After`.",
    500: "The server failed (`internal_error`, `engine_failed`).",
    503: "The model is being loaded or cannot be loaded (`not_ready`), or the server is stopping (`not_ready`, `engine_stopped`).",
}

OPENAI, OLLAMA = "/v1/", "/api/"  # the prefixes of their operations
ANTHROPIC = re.compile(r"/v1/messages(/.*)?")
ANTHROPICS_TYPES = {  # by status
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
OPENAIS_CODES = {  # by pydantic's type of error
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "unsupported_parameter": "unsupported_parameter",
    "unsupported_value": "unsupported_value",
}
NO_THREADS = "thread_unsupported_request"  # Anthropic's client then sends all messages


class ErrorDetail(BaseModel):
    code: str
    message: str
    type: str
    param: str | None = None


class ErrorBody(BaseModel):
    error: ErrorDetail


class AnthropicErrorDetail(BaseModel):
    type: str
    message: str
    details: dict[str, str] | None = Field(None, exclude_if=lambda details: details is None)


class AnthropicErrorBody(BaseModel):
    type: Literal["error"] = "error"
    error: AnthropicErrorDetail
    request_id: str | None


class OllamaErrorBody(BaseModel):
    error: str


class ApiError(HTTPException):
    """An error response: its status and the contents of its body."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        openais_code: str | None = None,
    ) -> None:
        """openais_code: OpenAI's own name of the error, if it is another."""
        super().__init__(status, message, headers)
        self._openais_code = openais_code or code
        message, param = message[:MAX_MESSAGE], param and param[:MAX_PARAM]  # they may quote the client's input
        kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
        self.body = ErrorBody(error=ErrorDetail(code=code, message=_sendable(message), type=kind, param=param and _sendable(param)))

    def as_openais(self) -> "ApiError":
        """The error as OpenAI would respond: its clients expect 400 for an invalid request, and branch on the code."""
        error = self.body.error
        if self.status_code != 422:
            return self
        return ApiError(400, self._openais_code, error.message, param=error.param, headers=self.headers)

    @property
    def anthropics_body(self) -> AnthropicErrorBody:
        kind = ANTHROPICS_TYPES.get(self.status_code, "api_error" if self.status_code >= 500 else "invalid_request_error")
        details = {"error_code": NO_THREADS} if self.body.error.code == NO_THREADS else None
        begins = "prompt is too long: " if self.body.error.code == "context_length_exceeded" else ""  # clients look for it
        detail = AnthropicErrorDetail(type=kind, message=begins + self._full_message, details=details)
        return AnthropicErrorBody(error=detail, request_id=correlation_id.get())

    @property
    def ollamas_body(self) -> OllamaErrorBody:
        return OllamaErrorBody(error=self._full_message)

    @property
    def _full_message(self) -> str:
        """With the field's name, for formats that have no other place for it."""
        error = self.body.error
        return error.message if error.param is None or error.param in error.message else f"{error.param}: {error.message}"

    def response(self, scope: Scope | None = None) -> JSONResponse:
        """In the format of the protocol that the request uses. scope: of the request; without it OpenAI's format."""
        body: BaseModel = self.body
        if scope is not None and is_anthropics(scope):
            body = self.anthropics_body
        elif scope is not None and scope["path"].startswith(OLLAMA):
            body = self.ollamas_body
        return JSONResponse(body.model_dump(), self.status_code, self.headers)


def invalid_field(field: str, message: str, code: str = "invalid_value") -> ApiError:
    """The error of one field, whose message begins with its name."""
    return ApiError(422, code, f"{field}: {message}", param=field)


def is_anthropics(scope: Scope) -> bool:
    """The request uses Anthropic's protocol. The list of models has the same path as OpenAI's, so a header decides."""
    path: str = scope["path"]
    if path.startswith("/v1/models"):
        return any(name == b"anthropic-version" for name, _ in scope["headers"])
    return bool(ANTHROPIC.fullmatch(path))


def to_api_error(error: Exception) -> ApiError:
    """The error response to an exception. This is the only place that gives exceptions a status."""
    match error:
        case ApiError():
            return error
        case UnknownModel():
            return ApiError(404, "model_not_found", str(error), param="model")
        case NotReady():
            return ApiError(503, "not_ready", str(error), headers={"Retry-After": "1"})
        case QueueFull():
            seconds = max(1, ceil(error.seconds))
            message = f"the queue is full; try again in {seconds} s"
            return ApiError(429, "queue_full", message, headers={"Retry-After": str(seconds)})
        case EngineFailed():
            return ApiError(500, "engine_failed", str(error))
        case EngineStopped():
            return ApiError(503, "engine_stopped", str(error), headers={"Retry-After": "1"})
        case PlannedFault():
            headers = None if error.retry_after is None else {"Retry-After": str(error.retry_after)}
            return ApiError(error.status, "planned_fault", str(error), headers=headers)
        case InvalidPlan():
            return ApiError(422, "invalid_value", str(error), param=FAULTS)
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            return ApiError(error.status_code, f"http_{error.status_code}", str(error.detail), headers=error.headers)
        case _:
            return ApiError(500, "internal_error", "the server failed; the cause is in its log")


def _invalid(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    kind: str = first["type"]
    code = OPENAIS_CODES.get(kind) or ("invalid_type" if kind.endswith(("_type", "_parsing", "_from_float")) else None)
    # The path of the field, without the part of the request and pydantic's names for the branches of a union.
    field, *parts = [str(part) for part in first["loc"][1:]] or [""]
    within = [part for part in parts if "[" not in part]
    place = ".".join(filter(None, [field, *within, first.get("ctx", {}).get("param")])) or None  # see `fields.invalid`
    said = "this field is unknown: check its spelling or omit it" if kind == "extra_forbidden" else first["msg"]
    return ApiError(422, "invalid_value", f"{place}: {said}" if place else said, param=place, openais_code=code)


def error_responses(*statuses: int, body: type[BaseModel] = ErrorBody) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a path operation with these error statuses.

    They refer to the body's schema. Of each `model` FastAPI would make a field, which took most of the first request's time.
    """
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
    return {status: {"content": content, "description": STATUSES[status]} for status in statuses}


def error_schemas() -> dict[str, Any]:
    """The schemas that `error_responses` refers to, by name."""
    bodies: list[type[BaseModel]] = [ErrorBody, AnthropicErrorBody, OllamaErrorBody]
    _, found = models_json_schema([(body, "serialization") for body in bodies], ref_template="#/components/schemas/{model}")
    schemas: dict[str, Any] = found["$defs"]
    return schemas


def _sendable(text: str) -> str:
    """The text with lone surrogates escaped, because UTF-8 cannot encode them."""
    return text.encode("utf-8", "backslashreplace").decode()
