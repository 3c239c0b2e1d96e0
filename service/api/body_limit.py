"""Bodies longer than the limit are answered 413, and not read to their end.

FastAPI's own limit answers a declared length with plain text; here every error has one shape.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import ApiError


class BodyLimit:
    """Raw ASGI middleware, which neither buffers nor delays."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """limit: bytes."""
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = int(headers.get(b"content-length", b"0"))  # digits, or the server would have refused it
        received, unread, answering = 0, declared > 0 or b"transfer-encoding" in headers, False
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
            if unread and message["type"] == "http.response.start":  # or the server would read the rest only to drop it
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            answering = True
            await send(message)

        if declared > self._limit:
            await too_long.response()(scope, receive, closing)
        else:
            await self._app(scope, limited, closing)
