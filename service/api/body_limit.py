"""Bodies longer than the limit are answered 413, and not read to their end; objects of too many fields are refused.

FastAPI's own limit answers a declared length with plain text; here every error has one shape.
"""

from typing import Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import ApiError

# Pydantic makes an error of each field that is wrong, which for a body full of them takes a second.
MOST_FIELDS, MOST_PARTS = 100, 50_000  # of an object; objects and lists of a body


def _with_few_fields(body: Any) -> Any:
    unseen: list[Any] = [body] if isinstance(body, dict) else []  # whatever else is refused for that
    seen = 0
    while unseen:
        part, seen = unseen.pop(), seen + 1
        if isinstance(part, dict) and len(part) > MOST_FIELDS:
            raise PydanticCustomError("too_many_fields", f"an object has {len(part):,} fields, more than {MOST_FIELDS}")
        if seen + len(unseen) > MOST_PARTS:
            raise PydanticCustomError("too_many_parts", f"there are more than {MOST_PARTS:,} objects and lists")
        unseen += [inner for inner in (part.values() if isinstance(part, dict) else part) if isinstance(inner, dict | list)]
    return body


FewFields = BeforeValidator(_with_few_fields)


def has_body(scope: Scope) -> bool:
    """One is to come with the request. If it is not read, the answer must close the connection: the server would read it all."""
    return _declared(scope) > 0 or any(name == b"transfer-encoding" for name, _ in scope["headers"])


def _declared(scope: Scope) -> int:
    return int(dict(scope["headers"]).get(b"content-length", b"0"))  # digits, or the server would have refused it


class BodyLimit:
    """Raw ASGI middleware, which neither buffers nor delays."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """limit: bytes."""
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = _declared(scope)
        received, unread, answering = 0, has_body(scope), False
        too_long = ApiError(413, "body_too_long", f"the body is longer than the {self._limit:,} bytes allowed here")

        async def limited() -> Message:
            nonlocal received, unread
            message = await receive()
            received += len(message.get("body", b""))
            unread = message.get("more_body", False)
            if received > self._limit:
                if answering:  # what is answering has not asked for the body
                    return {"type": "http.disconnect"}
                raise too_long
            return message

        async def closing(message: Message) -> None:
            nonlocal answering
            if unread and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            answering = True
            await send(message)

        if declared > self._limit:
            await too_long.response()(scope, receive, closing)
        else:
            await self._app(scope, limited, closing)
