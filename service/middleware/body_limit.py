"""The body of a request: decompressed where it came compressed, refused where it is too long .

FastAPI's own limit answers a declared length with plain text; here every error has one shape.
"""

import zlib
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import ApiError

ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # zlib's names for them
ACCEPTED = {"Accept-Encoding": "gzip, deflate"}


def has_body(scope: Scope) -> bool:
    """One is to come with the request. If it is not read, the answer must close the connection: the server would read it all."""
    return _declared(scope) > 0 or any(name == b"transfer-encoding" for name, _ in scope["headers"])


def _declared(scope: Scope) -> int:
    return int(dict(scope["headers"]).get(b"content-length", b"0"))  # digits, or the server would have refused it


class BodyLimit:
    """Raw ASGI middleware, which neither buffers nor delays."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """limit: bytes, as sent and decompressed."""
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        unread, answering = has_body(scope), False
        incoming: Incoming | None = None

        async def limited() -> Message:
            nonlocal unread
            message = await receive()
            if incoming is None or message["type"] != "http.request":
                return message
            unread = message.get("more_body", False)
            try:
                return incoming.take(message)
            except ApiError:
                if answering:  # what is answering has not asked for the body
                    return {"type": "http.disconnect"}
                raise

        async def closing(message: Message) -> None:
            nonlocal answering
            if unread and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            answering = True
            await send(message)

        try:
            incoming = Incoming(Headers(scope=scope).get("content-encoding", ""), _declared(scope), self._limit)
        except ApiError as refused:
            await refused.response()(scope, receive, closing)
        else:
            await self._app(scope, limited, closing)


class Incoming:
    """A body as it arrives, decompressed and counted."""

    def __init__(self, encoding: str, declared: int, limit: int) -> None:
        """encoding: of Content-Encoding; declared: its Content-Length. Raises ApiError: 413 or 415."""
        self._limit, self._received, self._decoded = limit, 0, 0
        self._inflate: Any = None
        if (name := encoding.strip().lower()) not in ("", "identity"):
            if name not in ENCODINGS:
                message = f"Content-Encoding: {name[:50]!r} is not supported: send the body uncompressed, or use gzip or deflate"
                raise ApiError(415, "unsupported_encoding", message, headers=ACCEPTED)
            self._wbits = ENCODINGS[name]
            self._inflate = zlib.decompressobj(self._wbits)
        if declared > limit:
            raise self._too_long()

    def take(self, message: Message) -> Message:
        """The same message with the body as it was before it was compressed. Raises ApiError: 413 or 422."""
        data, more = message.get("body", b""), message.get("more_body", False)
        self._received += len(data)
        if self._inflate is not None and self._received:
            data = self._decompress(data, last=not more)
        self._decoded += len(data)
        if max(self._received, self._decoded) > self._limit:
            raise self._too_long()
        return {**message, "body": data}

    def _decompress(self, data: bytes, *, last: bool) -> bytes:
        found, room = b"", self._limit - self._decoded + 1
        try:
            while data and len(found) < room:
                if self._inflate.eof:  # gzip may have several members, one after the other
                    self._inflate = zlib.decompressobj(self._wbits)
                found += self._inflate.decompress(data, room - len(found))
                data = self._inflate.unused_data
        except zlib.error as error:
            raise _damaged(str(error)) from error
        if last and not self._inflate.eof and len(found) < room:
            raise _damaged("it ends too early")
        return found

    def _too_long(self) -> ApiError:
        return ApiError(413, "body_too_long", f"the body is longer than the {self._limit:,} bytes allowed here")


def _damaged(why: str) -> ApiError:
    return ApiError(422, "invalid_encoding", f"the body could not be decompressed as its Content-Encoding says: {why}")
