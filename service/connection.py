"""One HTTP connection: when it is closed, what is answered where HTTP itself is at fault, and how a half-closed one ends.

Knows nothing of the application, except that an event stream may hold a comment between two of its messages.
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
from service.peer_reset import PeerReset

LINGERING = 1  # seconds in which a refusal is read
LONGEST_HEAD = 65536  # bytes of a request that are none of its body's: its headers, and what frames a chunked body
PROBE_AFTER = 0.2  # seconds: answers that are complete by then need no probe
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
COMMENT = b": the client has closed its side\n"  # see service.api.streaming.COMMENT
REFUSAL = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"


class _LateClosing:
    """A transport that is closed by `linger`."""

    def __init__(self, transport: asyncio.Transport, linger: Callable[[], None]) -> None:
        self._transport, self.close = transport, linger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Answer(RequestResponseCycle):
    """Sends a body of unknown length to an HTTP/1.0 client unframed, up to the connection's end. uvicorn would send chunks."""

    unframed = False
    streams_events = False
    linger: Callable[[], None]  # closes the connection while the client may still be sending

    async def send(self, message: Any) -> None:
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last and self.more_body and not self.keep_alive and not self.disconnected:
            self.transport = _LateClosing(self.transport, self.linger)  # type: ignore[assignment]  # uvicorn writes to it, and closes
        if message["type"] == "http.response.start":
            headers = {name.lower(): value for name, value in message.get("headers", [])}
            self.streams_events = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            if self.scope["http_version"] < "1.1" and b"content-length" not in headers:
                self.unframed, self.chunked_encoding, self.keep_alive = True, False, False
        elif self.unframed:
            self.expected_content_length = len(message.get("body", b""))  # which uvicorn compares with what is sent
        await super().send(message)

    def disconnect(self) -> None:
        """Tells the application that its client is gone."""
        self.disconnected = True
        self.message_event.set()


class Connection(HttpToolsProtocol):
    """Closes a connection on which a request has not fully arrived within `patience` seconds, whose client has accepted none of
    an answer for that long, or which has been idle for `keep_alive` seconds after an answer.

    A client may close its side of the connection after its last request and still wait for the answer (RFC 9112, 9.6). TCP does
    not tell it from one that has closed both sides, until something is sent: the system of the second answers with a reset.
    So after a client's end of file an event stream gets a comment at once. Any other answer that takes longer is preceded by
    `100 Continue`, which every HTTP/1.1 client has to accept and may discard (RFC 9110, 15.2). HTTP/1.0 has nothing that
    could be sent: such an answer is completed, unless TCP's keep-alive probes find that the client is gone.
    """

    def __init__(self, *arguments: Any, patience: float, keep_alive: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.timeout_keep_alive = keep_alive  # type: ignore[assignment]  # uvicorn has whole seconds
        self._patience = patience
        self._deadline: asyncio.TimerHandle | None = None
        self._arriving = False  # a request has begun to arrive, and has not ended
        self._moved = False  # what just came began a request or belonged to a body
        self._head = 0  # bytes since then
        self._answers: deque[Answer] = deque()  # to requests whose headers are complete; the first is being sent
        self._refused = False  # nothing is read any more
        self._refusal: bytes | None = None  # to be sent after those answers
        self._half_closed = False  # the client sends nothing any more
        self._peer_reset: PeerReset | None = None
        self._timed_by_kernel = False
        self._reading: asyncio.TimerHandle | None = None  # when the client has to have read something; if that is ours to time

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in what it extends
        super().connection_made(transport)
        if self.client:
            self.client = unmapped(self.client[0]), self.client[1]
        connection = transport.get_extra_info("socket")
        self._timed_by_kernel = hasattr(socket, "TCP_USER_TIMEOUT") and connection.family != socket.AF_UNIX
        if self._timed_by_kernel:  # it closes a connection whose other end reads nothing, whether it is gone or just not reading
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, ceil(self._patience * 1000))
        self._expect()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._moved = False
        super().data_received(data)
        self._head = self._head + len(data) if self._arriving and not self._moved else 0
        if self._head > LONGEST_HEAD and not self._refused and not self.transport.is_closing():
            message = f"the request's headers are longer than {LONGEST_HEAD:,} bytes"
            self._refuse(b"431 Request Header Fields Too Large", "headers_too_long", message)
        # Bytes that begin no request (an empty line) cancel uvicorn's keep-alive timer; start ours.
        if not self._answers and self.timeout_keep_alive_task is None and not self._refused and not self.transport.is_closing():
            self._expect()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Called by uvicorn for what it cannot parse."""
        self._refuse(b"400 Bad Request", "invalid_http", "the request is not HTTP/1.1, or breaks its rules")

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn always closes
        """Whether the connection stays open for answers to what has been received in full."""
        self._drop_unfinished()
        if not self._answers:
            return False
        self._half_closed = True
        self._unexpect()
        connection = self.transport.get_extra_info("socket")
        self._peer_reset = PeerReset(connection, self.loop, self._on_peer_reset)
        if self._answers[0].response_started:
            self._probe(self._answers[0])
        else:
            self.loop.call_later(PROBE_AFTER, self._probe, self._answers[0])
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arriving = self._moved = True
        if not self._answers:
            self._expect()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        answer: Any = self.cycle
        answer.__class__ = Answer  # uvicorn lets nobody choose the class
        answer.linger = self._linger
        self._answers.append(answer)

    def on_body(self, body: bytes) -> None:
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._arriving = False
        self._unexpect()

    def on_response_complete(self) -> None:
        self._answers.popleft()
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._refusal and not self._answers:
            self._send_refusal(self._refusal)
        elif self._half_closed and not self._answers:
            self.transport.close()
        elif self._half_closed:
            self.loop.call_later(PROBE_AFTER, self._probe, self._answers[0])
        elif self._arriving:  # the next one: it was not read on while this one was answered
            self._expect()

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._timed_by_kernel:
            self._expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unexpect_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unexpect()
        self._unexpect_reading()
        if isinstance(exc, TimeoutError):
            self._note_timeout()
        if self._peer_reset:
            self._peer_reset.close()
        for answer in self._answers:  # uvicorn tells only the last of them
            answer.disconnect()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._deadline is None:
            super().shutdown()
        else:  # a request that has not fully arrived is not waited for
            self.transport.close()

    def _refuse(self, status: bytes, code: str, message: str) -> None:
        """Answers so after the requests before, and closes."""
        self._refused = True
        self._unexpect()
        error = {"code": code, "message": message, "type": "invalid_request_error", "param": None}
        body = json.dumps({"error": error}).encode()
        self._refusal = REFUSAL % (status, len(body), body)
        if self._drop_unfinished():
            self.transport.close()  # its answer has begun
        elif not self._answers:
            self._send_refusal(self._refusal)

    def _send_refusal(self, refusal: bytes) -> None:
        self._unset_keepalive_if_required()
        self.transport.write(refusal)
        self._linger()

    def _linger(self) -> None:
        """Closes the connection once the client has had time to read the answer, whatever it is still sending.

        That is read and thrown away: closed at once, with bytes unread, the connection would be reset, and that can overtake the
        answer.
        """
        self._refused = True
        self._unexpect()
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(LINGERING, self.transport.abort)

    def _drop_unfinished(self) -> bool:
        """Drops the request whose body will not arrive, if there is one; returns whether its answer has begun."""
        if not self._arriving or not self._answers or not self._answers[-1].more_body:
            return False
        unfinished = self._answers.pop()
        unfinished.disconnect()
        if self._answers:
            self.pipeline.popleft()  # its last is on the left
        return unfinished.response_started

    def _probe(self, answer: Answer) -> None:
        """Sends what only a client that is still there accepts, unless the answer's own bytes have been or are being sent."""
        if self.transport.is_closing() or answer.response_complete or self.flow.write_paused:
            return
        if not answer.response_started:
            if answer.scope["http_version"] == "1.1":
                self.transport.write(CONTINUE)
        elif answer.streams_events:
            self.transport.write(COMMENT if answer.unframed else b"%x\r\n%s\r\n" % (len(COMMENT), COMMENT))

    def _expect(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._patience, self._time_out)

    def _unexpect(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expect_reading(self) -> None:
        size = self.transport.get_write_buffer_size()
        self._reading = self.loop.call_later(self._patience, self._check_reading, size)

    def _check_reading(self, size: int) -> None:
        if self.transport.get_write_buffer_size() < size:
            self._expect_reading()
        else:
            self._time_out()

    def _unexpect_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _on_peer_reset(self) -> None:
        connection = self.transport.get_extra_info("socket")
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ETIMEDOUT:
            self._note_timeout()
        self.transport.abort()

    def _time_out(self) -> None:
        self._note_timeout()
        self.transport.abort()

    def _note_timeout(self) -> None:
        """For service.middleware.request_log: the server cut the connection, the client did not."""
        for answer in self._answers:
            answer.scope["state"]["timed_out"] = True
