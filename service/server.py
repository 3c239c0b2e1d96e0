"""A uvicorn server that stops in order: open streams are given time to end."""

import asyncio
import logging
import os
import resource
import signal
import socket
from contextlib import suppress
from functools import partial
from math import ceil
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.connection import Connection
from service.listening import Listeners
from service.settings import Settings

log = logging.getLogger(__name__)

SENDING = 5  # seconds that ended streams have to send their last event
STOPPING = "the server is shutting down"


class Server(uvicorn.Server):
    """One application, until SIGTERM or Ctrl-C; a second one ends the process at once.

    First /readyz says 503, so that no more is sent here; then no more is accepted; open streams have their grace, and those
    that are left then end with an error event.
    """

    def __init__(self, app: FastAPI, settings: Settings, listeners: Listeners) -> None:
        self._app, self._listeners = app, listeners
        self._delay, self._grace = settings.shutdown_delay, settings.shutdown_grace
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(  # type: ignore[arg-type]  # it is only called
                    Connection, patience=settings.request_timeout, keep_alive=settings.keep_alive
                ),
                # By default uvicorn trusts any proxy on this machine, and so whatever a client makes it pass on.
                proxy_headers=bool(settings.proxies),
                forwarded_allow_ips=settings.proxies,
                ws="none",  # nothing here speaks it, and what asks for it would pass by access control and the log
                log_config=None,
                access_log=False,  # service.middleware.request_log has more to tell
                timeout_graceful_shutdown=ceil(settings.shutdown_grace) + SENDING,
            )
        )
        if settings.listens_on != settings.host and not settings.uds:
            log.warning(
                "listening on %s only, not on %s: there are no API keys; give SERVICE_API_KEYS, or SERVICE_WITHOUT_KEYS=true",
                settings.listens_on,
                settings.host,
            )

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            super().run(sockets or self._listeners.sockets)
        finally:
            self._listeners.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        log.info("listening on %s", ", ".join(self._listeners.names))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._stopping:
            self._listeners.close()
            os._exit(128 + sig)
        self._stopping = True
        if self._loop is None:  # it has not started yet, and will not
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._stop, self._delay if sig == signal.SIGTERM else 0)

    def _stop(self, delay: float) -> None:
        self._app.state.registry.drain(STOPPING)
        asyncio.get_running_loop().call_later(delay, setattr, self, "should_exit", True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(self._grace, self._app.state.registry.end, STOPPING)
        await super().shutdown(sockets)


def allow_many_connections() -> None:
    """Each connection is a file descriptor: raise the soft limit to the hard one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS reports no limit, but allows less
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
