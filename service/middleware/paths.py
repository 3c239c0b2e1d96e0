"""What every path has in common: HEAD where there is GET, and the same with a slash at the end."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Paths:
    """Raw ASGI middleware. The scope of the middlewares around it, the log's among them, stays as it came."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}  # no redirect: behind a proxy it could leave https
        if scope["method"] == "HEAD":
            await self._answer_head({**scope, "method": "GET"}, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends what a GET begins with. A stream is told then that its client has left, so it ends."""
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
