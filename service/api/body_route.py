"""Path operations with one JSON body, called as endpoint(request, body: JsonBody[...]).

FastAPI documents them. Its dependency injection is bypassed, because it takes most of the time of a short answer.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar, get_type_hints

from fastapi import Request, Response
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect

from service.api.disconnect import ClientDisconnected

JSON_TYPE = "application/json"

# Pydantic creates one error per invalid field. Without a limit, a body full of invalid fields would take a second.
MAX_FIELDS = 1000  # per object
MAX_PARTS = 50_000  # objects and lists per body


def _limit_size(body: Any) -> Any:
    unseen: list[Any] = [body] if isinstance(body, dict) else []  # pydantic rejects every other type
    seen = 0
    while unseen:
        part, seen = unseen.pop(), seen + 1
        if isinstance(part, dict) and len(part) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", f"an object has {len(part):,} fields, more than {MAX_FIELDS:,}")
        if seen + len(unseen) > MAX_PARTS:
            raise PydanticCustomError("too_many_parts", f"the body has more than {MAX_PARTS:,} objects and lists")
        unseen += [inner for inner in (part.values() if isinstance(part, dict) else part) if isinstance(inner, dict | list)]
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


async def _read(request: Request, *, any_type: bool) -> Any:
    """The parsed JSON body, or its bytes if the content type is not JSON. Raises the same exceptions as FastAPI."""
    try:
        content = await request.body()
    except ClientDisconnect:
        raise ClientDisconnected from None
    if not content:
        raise RequestValidationError([{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}])
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind == JSON_TYPE or (kind.startswith("application/") and kind.endswith("+json"))
    if not is_json and (not any_type or "origin" in request.headers):
        return content
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        fault = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "", "input": {}, "ctx": {"error": error.msg}}
        raise RequestValidationError([fault], body=error.doc) from None
    except (ValueError, RecursionError):  # invalid UTF-8, a number of thousands of digits, or deep nesting
        raise HTTPException(400) from None


def json_response(answer: BaseModel, *, exclude_none: bool = False) -> Response:
    return Response(answer.model_dump_json(exclude_none=exclude_none), media_type=JSON_TYPE)
