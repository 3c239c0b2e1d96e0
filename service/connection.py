"""One HTTP connection: its timeouts, its responses to requests that are not valid HTTP, and its end when it is half closed.

Knows nothing of the application, except that an event stream may contain a comment between two messages.
"""

import asyncio
import errno
import json
import socket
from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.addresses import unmapped
from service.http_parser import Parser
from service.peer_reset import PeerReset

LINGER_SECONDS = 1  # seconds for a client to read a refusal
MAX_HEAD = 65536  # bytes of a request outside its body: headers, and the framing of a chunked body
PROBE_AFTER = 0.2  # seconds; a response that is complete by then needs no probe
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
COMMENT = b": the client has closed its side\n"  # see service.api.events.COMMENT
REFUSAL = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"


class _LateClosing:
    """A transport whose `close` is `linger`."""

    def __init__(self, transport: asyncio.Transport, linger: Callable[[], None]) -> None:
        self._transport, self.close = transport, linger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Response(RequestResponseCycle):
    """A response that sends a body of unknown length to an HTTP/1.0 client unframed. uvicorn would send chunks."""

    unframed = False
    streams_events = False
    linger: Callable[[], None]  # closes the connection although the client may still be sending

    async def send(self, message: Any) -> None:
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last and self.more_body and not self.keep_alive and not self.disconnected:
            self.transport = _LateClosing(self.transport, self.linger)  # type: ignore[assignment]  # uvicorn only writes to it and closes it
        if message["type"] == "http.response.start":
            headers = {name.lower(): value for name, value in message.get("headers", [])}
            self.streams_events = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            if self.scope["http_version"] < "1.1" and b"content-length" not in headers:
                self.unframed, self.chunked_encoding, self.keep_alive = True, False, False
        elif self.unframed:
            self.expected_content_length = len(message.get("body", b""))  # uvicorn compares it with the length of the body
        await super().send(message)

    def break_off(self) -> None:
        """Closes the connection although the response is not complete. The application returns without completing it."""
        self.disconnected = True
        self.transport.close()

    def disconnect(self) -> None:
        """Tells the application that its client has disconnected."""
        self.disconnected = True
        self.message_event.set()


class Connection(HttpToolsProtocol):
    """An HTTP connection with timeouts. It is closed if a request has not fully arrived within `timeout` seconds, if the client
    has read nothing of a response for that long, or if it has been idle for `keep_alive` seconds after a response.

    A client may close its side after its last request and still wait for the response (RFC 9112, 9.6). For TCP this looks like a
    client that has closed both sides, until something is sent: the system of the latter then responds with a reset. So after a
    client's end of file an event stream gets a comment at once. Another response that takes longer is preceded by `100 Continue`,
    which every HTTP/1.1 client has to accept and may discard (RFC 9110, 15.2). HTTP/1.0 has nothing that could be sent, so the
    response is completed unless TCP's keep-alive probes find that the client is gone.
    """

    def __init__(self, *arguments: Any, timeout: float, keep_alive: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser: Any = Parser(self)
        self.timeout_keep_alive = keep_alive  # type: ignore[assignment]  # uvicorn declares whole seconds
        self._timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self._arriving = False  # a request has started to arrive and is not complete
        self._progressed = False  # the latest data began a request or belonged to a body
        self._head = 0  # bytes received since then
        self._responses: deque[Response] = deque()  # to requests whose headers are complete; the first one is being sent
        self._refused = False  # further data is discarded
        self._refusal: bytes | None = None  # to send after those responses
        self._half_closed = False  # the client has closed its side
        self._peer_reset: PeerReset | None = None
        self._timed_by_kernel = False
        self._reading_timer: asyncio.TimerHandle | None = None  # unused if timed by the kernel

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        super().connection_made(transport)
        if self.client:
            self.client = unmapped(self.client[0]), self.client[1]
        connection = transport.get_extra_info("socket")
        self._timed_by_kernel = hasattr(socket, "TCP_USER_TIMEOUT") and connection.family != socket.AF_UNIX
        if self._timed_by_kernel:  # the kernel closes a connection whose client reads nothing
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, ceil(self._timeout * 1000))
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._progressed = False
        super().data_received(data)
        self._head = self._head + len(data) if self._arriving and not self._progressed else 0
        if self._head > MAX_HEAD and not self._refused and not self.transport.is_closing():
            message = f"the request's headers are longer than {MAX_HEAD:,} bytes"
            self._refuse(b"431 Request Header Fields Too Large", "headers_too_long", message)
        # Data that begins no request, such as an empty line, cancels uvicorn's keep-alive timer. Start our own.
        if not self._responses and self.timeout_keep_alive_task is None and not self._refused and not self.transport.is_closing():
            self._start_timer()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Called by uvicorn for a request that it cannot parse."""
        self._refuse(b"400 Bad Request", "invalid_http", "the request is not valid HTTP/1.1")

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn always closes
        """Returns whether the connection stays open for responses to complete requests."""
        self._drop_unfinished()
        if not self._responses:
            return False
        self._half_closed = True
        self._stop_timer()
        connection = self.transport.get_extra_info("socket")
        self._peer_reset = PeerReset(connection, self.loop, self._on_peer_reset)
        if self._responses[0].response_started:
            self._probe(self._responses[0])
        else:
            self.loop.call_later(PROBE_AFTER, self._probe, self._responses[0])
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arriving = self._progressed = True
        if not self._responses:
            self._start_timer()

    def on_headers_complete(self) -> None:
        if self.parser.offers_upgrade:
            return
        super().on_headers_complete()
        response: Any = self.cycle
        response.__class__ = Response  # uvicorn has no option for the class
        response.linger = self._linger
        response.scope["extensions"] = {"folio.break_off": response.break_off}
        self._responses.append(response)

    def on_body(self, body: bytes) -> None:
        self._progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.offers_upgrade:
            return
        super().on_message_complete()
        self._arriving = False
        self._stop_timer()

    def on_response_complete(self) -> None:
        self._responses.popleft()
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._refusal and not self._responses:
            self._send_refusal(self._refusal)
        elif self._half_closed and not self._responses:
            self.transport.close()
        elif self._half_closed:
            self.loop.call_later(PROBE_AFTER, self._probe, self._responses[0])
        elif self._arriving:  # the next request, which was not read during the response to this one
            self._start_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._timed_by_kernel:
            self._start_reading_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_reading_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_reading_timer()
        if isinstance(exc, TimeoutError):
            self._note_timeout()
        if self._peer_reset:
            self._peer_reset.close()
        for response in self._responses:  # uvicorn tells only the last one
            response.disconnect()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._timer is None:
            super().shutdown()
        else:  # an incomplete request is not waited for
            self.transport.close()

    def _refuse(self, status: bytes, code: str, message: str) -> None:
        """Sends an error after the responses to earlier requests, and closes the connection."""
        self._refused = True
        self._stop_timer()
        error = {"code": code, "message": message, "type": "invalid_request_error", "param": None}
        body = json.dumps({"error": error}).encode()
        self._refusal = REFUSAL % (status, len(body), body)
        if self._drop_unfinished():
            self.transport.close()  # its response has started
        elif not self._responses:
            self._send_refusal(self._refusal)

    def _send_refusal(self, refusal: bytes) -> None:
        self._unset_keepalive_if_required()
        self.transport.write(refusal)
        self._linger()

    def _linger(self) -> None:
        """Closes the connection when the client has had time to read the response.

        What it still sends is read and discarded. Closing with unread bytes resets the connection, and the reset can overtake the
        response.
        """
        self._refused = True
        self._stop_timer()
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _drop_unfinished(self) -> bool:
        """Drops a request whose body will not arrive. Returns whether its response has started."""
        if not self._arriving or not self._responses or not self._responses[-1].more_body:
            return False
        unfinished = self._responses.pop()
        unfinished.disconnect()
        if self._responses:
            self.pipeline.popleft()  # the latest is on the left
        return unfinished.response_started

    def _probe(self, response: Response) -> None:
        """Sends bytes to which a disconnected client's system responds with a reset, unless the response sends some itself."""
        if self.transport.is_closing() or response.response_complete or self.flow.write_paused:
            return
        if not response.response_started:
            if response.scope["http_version"] == "1.1":
                self.transport.write(CONTINUE)
        elif response.streams_events:
            self.transport.write(COMMENT if response.unframed else b"%x\r\n%s\r\n" % (len(COMMENT), COMMENT))

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._timeout, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_reading_timer(self) -> None:
        size = self.transport.get_write_buffer_size()
        self._reading_timer = self.loop.call_later(self._timeout, self._check_reading, size)

    def _check_reading(self, size: int) -> None:
        if self.transport.get_write_buffer_size() < size:
            self._start_reading_timer()
        else:
            self._time_out()

    def _stop_reading_timer(self) -> None:
        if self._reading_timer is not None:
            self._reading_timer.cancel()
            self._reading_timer = None

    def _on_peer_reset(self) -> None:
        connection = self.transport.get_extra_info("socket")
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ETIMEDOUT:
            self._note_timeout()
        self.transport.abort()

    def _time_out(self) -> None:
        self._note_timeout()
        self.transport.abort()

    def _note_timeout(self) -> None:
        """Tells service.middleware.request_log that the server closed the connection, not the client."""
        for response in self._responses:
            response.scope["state"]["timed_out"] = True
