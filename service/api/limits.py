"""Bodies longer than the limit are answered 413, and not read to their end.

FastAPI's own limit answers a declared length with plain text; here every error has one shape.
"""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import translated


class BodyLimit:
    """Raw ASGI middleware, which neither buffers nor delays."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """limit: bytes."""
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        too_long = HTTPException(413, f"the body is longer than the {self._limit:,} bytes allowed here")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._limit:
            await translated(too_long).response()(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:  # of a body that declared no length
                raise too_long
            return message

        await self._app(scope, limited, send)
