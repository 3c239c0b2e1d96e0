"""One HTTP connection: limits on how long a request may take to arrive, how long its headers may be, and how long it may idle."""

import asyncio
import json
import socket
from math import ceil
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LINGERING = 1  # seconds in which a refusal is read
LONGEST_HEAD = 65536  # bytes of a request that are none of its body's: its headers, and what frames a chunked body
TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)


class Connection(HttpToolsProtocol):
    """Closed when a request has not fully arrived within `patience` seconds, when the client has taken nothing for that long,
    and when a request's headers are too long.
    """

    def __init__(self, *arguments: Any, patience: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._patience = patience
        self._deadline: asyncio.TimerHandle | None = None
        self._arriving = False  # a request has begun to arrive, and has not ended
        self._moved = False  # what just came began a request or belonged to a body
        self._head = 0  # bytes since then
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in what it extends
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT") and connection.family in (socket.AF_INET, socket.AF_INET6):
            # The kernel closes a connection whose other end reads nothing, whether it is gone or just not reading.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, ceil(self._patience * 1000))
        self._expect()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._moved = False
        super().data_received(data)
        self._head = self._head + len(data) if self._arriving and not self._moved else 0
        if self._head > LONGEST_HEAD and not self.transport.is_closing():
            self._refuse_head()
        # Bytes that begin no request (an empty line) cancel uvicorn's keep-alive timer; start ours.
        if not self._answering and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self._expect()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arriving = self._moved = True
        if not self._answering:
            self._expect()

    def on_body(self, body: bytes) -> None:
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._arriving = False
        self._unexpect()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._arriving and not self.transport.is_closing():  # the next one: it was not read on while this one was answered
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unexpect()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._deadline is None:
            super().shutdown()
        else:  # a request that has not fully arrived is not waited for
            self.transport.close()

    def _refuse_head(self) -> None:
        self._refused = True
        if self._answering:
            self.transport.close()
            return
        error = {"code": "headers_too_long", "type": "invalid_request_error", "param": None}
        error["message"] = f"the request's headers are longer than {LONGEST_HEAD:,} bytes"
        body = json.dumps({"error": error}).encode()
        self.transport.write(TOO_LONG % (len(body), body))
        # What comes meanwhile is thrown away: closed at once, with bytes unread, the connection would be reset, and that can
        # overtake the answer.
        self.loop.call_later(LINGERING, self.transport.abort)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._patience, self.transport.abort)

    def _unexpect(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
