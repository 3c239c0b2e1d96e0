"""Path operations with one JSON body, called as endpoint(request, body: JsonBody[...]).

FastAPI documents them. Its dependency injection is bypassed, because it takes most of the time of a short answer.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from math import isinf
from typing import Annotated, Any, TypeVar, get_type_hints

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from service.api.errors import ApiError

JSON_TYPE = "application/json"

# Pydantic creates one error per invalid field. Without a limit, a body full of invalid fields would take a second. For the same
# reason each list of unlimited length has `fail_fast`.
MAX_FIELDS = 1000  # per object
MAX_PARTS = 50_000  # objects and lists per body
MAX_DEPTH = 200  # of objects and lists in one another: an answer may repeat a field, and writing it recurses


async def build_answer(build: Callable[[], Response], logprobs: int | None) -> Response:
    """Calls `build`. In a thread if there are log-probabilities: many take long to write, which holds up the event loop."""
    return build() if logprobs is None else await asyncio.to_thread(build)


def _limit_size(body: dict[str, Any]) -> dict[str, Any]:
    level, seen, depth = list[Any]([body]), 0, 0
    while level:
        seen, depth, inner = seen + len(level), depth + 1, list[Any]()
        if depth > MAX_DEPTH:
            raise PydanticCustomError("too_deep", f"the body is nested more than {MAX_DEPTH} levels deep")
        for part in level:
            if isinstance(part, dict) and len(part) > MAX_FIELDS:
                raise PydanticCustomError("too_many_fields", f"an object has {len(part):,} fields, more than {MAX_FIELDS:,}")
            inner += [one for one in (part.values() if isinstance(part, dict) else part) if isinstance(one, dict | list)]
            if seen + len(inner) > MAX_PARTS:
                raise PydanticCustomError("too_many_parts", f"the body has more than {MAX_PARTS:,} objects and lists")
        level = inner
    return body


T = TypeVar("T")
JsonBody = Annotated[T, BeforeValidator(_limit_size)]
"""The type of an operation's body."""


class BodyRoute(APIRoute):
    """For `APIRouter(route_class=...)`. FastAPI handles endpoints without a parameter `body` as usual."""

    reads_any_type = False

    def get_route_handler(self) -> Callable[[Request], Any]:
        hints = get_type_hints(self.endpoint, include_extras=True)
        if "body" not in hints:
            return super().get_route_handler()
        adapter: TypeAdapter[Any] = TypeAdapter(hints["body"])
        endpoint: Callable[[Request, Any], Awaitable[Response]] = self.endpoint

        async def handle(request: Request) -> Response:
            given = await _read(request, any_type=self.reads_any_type)
            try:
                body = adapter.validate_python(given)
            except ValidationError as error:
                faults = error.errors(include_url=False)
                raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in faults], body=given) from None
            return await endpoint(request, body)

        return handle


class AnyTypeRoute(BodyRoute):
    """Reads a body as JSON whatever its content type says, because some of Ollama's clients send none.

    The body of a web page still must be declared as JSON. A page needs no consent of the server to send other types.
    """

    reads_any_type = True


async def _read(request: Request, *, any_type: bool) -> dict[str, Any]:
    """The JSON object in the body. Raises ApiError, or ClientDisconnect."""
    content = await request.body()
    send_json = "send a JSON object with the header Content-Type: application/json"
    if not content:
        raise ApiError(422, "invalid_value", f"the body is missing: {send_json}", openais_code="missing_required_parameter")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind == JSON_TYPE or (kind.startswith("application/") and kind.endswith("+json"))
    if not is_json and (not any_type or "origin" in request.headers):
        raise ApiError(422, "invalid_value", f"the body is not declared as JSON: {send_json}", openais_code="invalid_type")
    try:
        given = json.loads(content, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError as error:
        message = f"the body is not JSON: {error.msg} at character {error.pos}".replace(" at at ", " at ")
        raise ApiError(422, "invalid_json", message) from None
    except (ValueError, RecursionError):
        message = "the body is not JSON in UTF-8, is nested too deeply, or has NaN, Infinity or a number that is too large"
        raise ApiError(422, "invalid_json", message) from None
    if not isinstance(given, dict):
        message = "the body is JSON but not an object: send fields in braces"
        raise ApiError(422, "invalid_value", message, openais_code="invalid_type")
    return given


def _refuse(constant: str) -> None:
    """Called by `json` for NaN and Infinity, which are not JSON."""
    raise ValueError(constant)


def _finite(number: str) -> float:
    """Called by `json` for each number with a fraction or an exponent."""
    if isinf(value := float(number)):
        raise ValueError(number)
    return value


def json_response(answer: BaseModel, *, exclude_none: bool = False) -> Response:
    return Response(answer.model_dump_json(exclude_none=exclude_none), media_type=JSON_TYPE)
