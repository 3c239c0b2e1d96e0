"""Applies a fault plan to the messages of a response: headers, and answers that are cut, stalled or malformed."""

import asyncio
from contextlib import suppress
from math import inf

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.disconnect import DISCONNECTED, wait_for_disconnect
from service.fault_plan import HEADER, Break
from service.weather import RequestFaults, Weather

POLL = 0.25  # seconds between two checks of a stalled response whether the service has stopped


class Broken(Exception):
    """The response ends here, without its end."""


class WeatherMiddleware:
    """Raw ASGI middleware of servers with --faults or --fault-header. `Job` draws the faults, if the request has one."""

    def __init__(self, app: ASGIApp, weather: Weather) -> None:
        self._app, self._weather = app, weather

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        faults = RequestFaults(self._weather, Headers(scope=scope).get(HEADER))
        scope.setdefault("state", {})["faults"] = faults
        try:
            with suppress(Broken):
                await self._app(scope, receive, BreakingSend(scope, faults, receive, send))
        finally:
            faults.close()


class BreakingSend:
    """Sends the messages of a response, and breaks one of them when a fault is due."""

    def __init__(self, scope: Scope, faults: RequestFaults, receive: Receive, send: Send) -> None:
        self._scope, self._faults, self._receive, self._send = scope, faults, receive, send
        self._is_whole = False  # the response has a Content-Length

    async def __call__(self, message: Message) -> None:
        fault = self._faults.fault if self._faults.fault_at is not None else None
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(self._faults.headers)
            self._is_whole = "content-length" in headers
            if fault and fault.kind == "stall" and self._is_whole:
                self._happens(fault)
                if not await self._wait(fault.seconds):
                    message["status"] = DISCONNECTED
        elif fault and (b"{" in message["body"] or not message.get("more_body")):  # else it only keeps the connection alive
            self._happens(fault)
            await self._break(fault, message)
            return
        await self._send(message)

    def _happens(self, fault: Break) -> None:
        self._faults.fault = None
        self._faults.note(fault.kind)

    async def _break(self, fault: Break, message: Message) -> None:
        body: bytes = message["body"]
        head = body[: min(self._faults.fault_at or 0, max(0, len(body) - 1))]
        match fault.kind:
            case "cut":
                await self._send({**message, "body": head, "more_body": True})
                self._cut()
            case "stall":
                await self._wait(fault.seconds)
                await self._send(message)
            case _ if self._is_whole:
                await self._send({**message, "body": head.ljust(len(body))})
            case "malformed":
                await self._send({**message, "body": b"".join(without_half(body))})
            case "truncated":
                await self._send({**message, "body": without_half(body)[0], "more_body": False})
                raise Broken

    def _cut(self) -> None:
        """Closes the connection. Without the extension of service.connection the server does that, and logs an error."""
        break_off = self._scope.get("extensions", {}).get("folio.break_off")
        if break_off:
            break_off()
        raise Broken

    async def _wait(self, seconds: float | None) -> bool:
        """Waits so long, or until the service stops or the client disconnects. Returns whether the client is still there."""
        loop, registry = asyncio.get_running_loop(), self._scope["app"].state.registry
        end = inf if seconds is None else loop.time() + seconds
        leaving = asyncio.create_task(wait_for_disconnect(self._receive))
        try:
            while not leaving.done() and loop.time() < end and not registry.stop_reason:
                await asyncio.wait([leaving], timeout=min(POLL, end - loop.time()))
            return not leaving.done()
        finally:
            leaving.cancel()


def without_half(events: bytes) -> tuple[bytes, bytes]:
    """The events before and after the second half of the first one's JSON, which is left out."""
    before, brace, rest = events.partition(b"{")
    data, end, behind = rest.partition(b"\n")
    return before + brace + data[: len(data) // 2], end + behind
