"""Every error in one shape, OpenAI's: {"error": {"code", "message", "type", "param"}}."""

import re
from collections.abc import Mapping
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


class ClientLeft(Exception):
    """The client left before the answer."""


class StreamEnded(Exception):
    """The stream to resume had already ended: 204."""


LEFT = 499  # as nginx has it: nobody is there to be answered, but the log and the metrics say so
STATUSES = {
    401: "the server has API keys, and none of them came with the request (`missing_api_key`, `invalid_api_key`)",
    404: "no model of that name is served (`model_not_found`), or it has no such file (`not_found`)",
    410: "the version that an event's id or a state token is of is not served any more (`version_gone`)",
    413: "the body is longer than the server allows (`body_too_long`)",
    421: "the request's Host is not one of the server's (`host_not_allowed`)",
    422: "a field is not right: `param` names it, `message` says what would be (`invalid_value`, `unknown_characters`, `too_long`, "
    "`invalid_json`, `invalid_state`, `invalid_event_id`, `other_request`, `too_many`)",
    429: "too many are waiting (`queue_full`), or this client has asked too often (`rate_limited`) or has too much open "
    "(`too_many_open`); Retry-After says when to come again",
    500: "the server failed (`internal_error`, `engine_failed`)",
    503: "the model is still being loaded, or none can be, or the server is stopping (`not_ready`, `engine_stopped`)",
}


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
        kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
        self.body = ErrorBody(error=ErrorDetail(code=code, message=_sendable(message), type=kind, param=param and _sendable(param)))

    def response(self) -> JSONResponse:
        return JSONResponse(self.body.model_dump(), self.status_code, self.headers)


def translated(error: Exception) -> ApiError:
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
            first = error.errors()[0]
            if first["type"] == "json_invalid":
                return ApiError(
                    422, "invalid_json", f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
                )
            # Without the part of the request and, below the field, pydantic's names for the branches of a union.
            parts = [str(part) for part in first["loc"][1:]]
            place = ".".join(parts[:1] + [part for part in parts[1:] if not re.search(r"[\[-]", part)]) or None
            return ApiError(422, "invalid_value", f"{place}: {first['msg']}" if place else first["msg"], param=place)
        case HTTPException(status_code=400):  # FastAPI's word for a body that it could not decode
            return ApiError(422, "invalid_json", "the body could not be decoded as JSON in UTF-8")
        case HTTPException():
            return ApiError(error.status_code, f"http_{error.status_code}", str(error.detail), headers=error.headers)
        case _:
            return ApiError(500, "internal_error", "the server failed; its log says how")


def install(app: FastAPI) -> None:
    async def answer(_: Request, error: Exception) -> Response:
        if isinstance(error.__cause__, ClientDisconnect):  # which FastAPI takes for a body that it can't parse
            return Response(status_code=LEFT)
        return translated(error).response()

    async def nothing(_: Request, error: Exception) -> Response:
        return Response(status_code=204 if isinstance(error, StreamEnded) else LEFT)

    for kind in (HTTPException, UnknownModel, NotReady, QueueFull, EngineStopped, RequestValidationError):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(StreamEnded, nothing)
    app.add_exception_handler(ClientLeft, nothing)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a path operation that may answer these."""
    return {status: {"model": ErrorBody, "description": STATUSES[status]} for status in statuses}


def _sendable(text: str) -> str:
    """The text with lone surrogates escaped: they can't be sent as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
