"""Sends the notes of a request as response headers; see `service.notes`."""

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.notes import Notes, OnUnknownFields, current


class NotesMiddleware:
    """Raw ASGI middleware. The request log finds the notes in the scope's state."""

    def __init__(self, app: ASGIApp, on_unknown_fields: OnUnknownFields, ignored_headers: Mapping[bytes, str]) -> None:
        """ignored_headers: by their lower-case names; the notes name them."""
        self._app, self._on_unknown_fields, self._ignored_headers = app, on_unknown_fields, ignored_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        notes = Notes(self._on_unknown_fields)
        notes.ignored_fields += [self._ignored_headers[name] for name, _ in scope["headers"] if name in self._ignored_headers]
        scope.setdefault("state", {})["notes"] = notes

        async def noting_send(message: Message) -> None:
            if message["type"] == "http.response.start" and notes.headers:
                MutableHeaders(scope=message).update(notes.headers)
            await send(message)

        token = current.set(notes)
        try:
            await self._app(scope, receive, noting_send)
        finally:
            current.reset(token)
