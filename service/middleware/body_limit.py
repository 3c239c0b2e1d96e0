"""Decompresses the body of a request and rejects one that is too long.

FastAPI's own limit would answer in plain text, not in the format of the other errors.
"""

import zlib
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import ApiError

ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # as zlib's wbits
PIECE = 1024  # bytes decompressed at a time: what follows the end of a gzip member is copied
ACCEPTED = {"Accept-Encoding": "gzip, deflate"}


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Responds before the body is read. The connection is closed, or the server would read the whole body."""
    response = error.response(scope)
    if _has_body(scope):
        response.headers["connection"] = "close"
    await response(scope, receive, send)


def _has_body(scope: Scope) -> bool:
    return _declared(scope) > 0 or any(name == b"transfer-encoding" for name, _ in scope["headers"])


def _declared(scope: Scope) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")  # the server accepts digits only, and any number of zeros
    return int(length.lstrip(b"0") or b"0")


class BodyLimit:
    """Raw ASGI middleware. Does not buffer the body."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """limit: bytes, both as sent and decompressed."""
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        unread, answering = _has_body(scope), False
        incoming: Incoming | None = None

        async def limited_receive() -> Message:
            nonlocal unread
            message = await receive()
            if incoming is None or message["type"] != "http.request":
                return message
            unread = message.get("more_body", False)
            try:
                return incoming.receive(message)
            except ApiError:
                if answering:  # a response that has started cannot become an error
                    return {"type": "http.disconnect"}
                raise

        async def closing_send(message: Message) -> None:
            nonlocal answering
            if unread and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            answering = True
            await send(message)

        try:
            incoming = Incoming(Headers(scope=scope).get("content-encoding", ""), _declared(scope), self._limit)
        except ApiError as refused:
            await refused.response(scope)(scope, receive, closing_send)
        else:
            await self._app(scope, limited_receive, closing_send)


class Incoming:
    """Decompresses and counts a body while it arrives."""

    def __init__(self, encoding: str, declared: int, limit: int) -> None:
        """encoding: the Content-Encoding. declared: the Content-Length. Raises ApiError with 413 or 415."""
        self._limit, self._received, self._decoded = limit, 0, 0
        self._inflate: Any = None
        if (name := encoding.strip().lower()) not in ("", "identity"):
            if name not in ENCODINGS:
                message = f"Content-Encoding: {name[:50]!r} is not supported: use gzip or deflate, or send the body uncompressed"
                raise ApiError(415, "unsupported_encoding", message, headers=ACCEPTED)
            self._wbits = ENCODINGS[name]
            self._inflate = zlib.decompressobj(self._wbits)
        if declared > limit:
            raise self._too_long()

    def receive(self, message: Message) -> Message:
        """The message with its part of the body decompressed. Raises ApiError with 413 or 422."""
        data, more = message.get("body", b""), message.get("more_body", False)
        self._received += len(data)
        if self._inflate is not None and self._received:
            data = self._decompress(data, last=not more)
        self._decoded += len(data)
        if max(self._received, self._decoded) > self._limit:
            raise self._too_long()
        return {**message, "body": data}

    def _decompress(self, data: bytes, *, last: bool) -> bytes:
        found, room = bytearray(), self._limit - self._decoded + 1
        try:
            for at in range(0, len(data), PIECE):
                piece = data[at : at + PIECE]
                while piece and len(found) < room:
                    if self._inflate.eof and self._wbits == zlib.MAX_WBITS:
                        raise _damaged("it continues after its end")
                    if self._inflate.eof:  # a gzip body may consist of several members
                        self._inflate = zlib.decompressobj(self._wbits)
                    found += self._inflate.decompress(piece, room - len(found))
                    piece = self._inflate.unused_data
        except zlib.error as error:
            raise _damaged(str(error)) from error
        if last and not self._inflate.eof and len(found) < room:
            raise _damaged("it is incomplete")
        return bytes(found)

    def _too_long(self) -> ApiError:
        return ApiError(413, "body_too_long", f"the body is longer than this server's limit of {self._limit:,} bytes")


def _damaged(why: str) -> ApiError:
    return ApiError(422, "invalid_encoding", f"the body does not match its Content-Encoding: {why}")
