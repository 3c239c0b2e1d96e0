"""Supports HEAD on every path with GET, and a slash at the end of every path."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Paths:
    """Raw ASGI middleware. It copies the scope, so that the request log sees the original path and method."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}  # a redirect behind a proxy could switch to http
        if scope["method"] == "HEAD":
            await self._answer_head({**scope, "method": "GET"}, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the head of the response to GET. Then it reports a disconnect, so that a stream ends."""
        started = False

        async def until_started() -> Message:
            return {"type": "http.disconnect"} if started else await receive()

        async def send_head(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, until_started, send_head)
