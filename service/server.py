"""A uvicorn server with request timeouts, a header size limit and graceful shutdown."""

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

SENDING = 5  # seconds in which ended streams can send their last event
STOPPING = "the server is shutting down"


class Server(uvicorn.Server):
    """Serves one application until SIGTERM or Ctrl-C. A second signal ends the process at once.

    First /readyz answers 503, so that a load balancer sends no more requests. After the delay the server accepts no more.
    Open streams have the grace period to finish. Then the remaining ones end with an error event.
    """

    def __init__(self, app: FastAPI, settings: Settings, listeners: Listeners) -> None:
        self._app, self._listeners = app, listeners
        self._delay, self._grace = settings.shutdown_delay, settings.shutdown_grace
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(  # type: ignore[arg-type]  # uvicorn only calls it
                    Connection, timeout=settings.request_timeout, keep_alive=settings.keep_alive
                ),
                # By default uvicorn trusts any proxy on this machine, and so headers that a client made it forward.
                proxy_headers=bool(settings.proxies),
                forwarded_allow_ips=settings.proxies,
                ws="none",  # an upgrade would bypass access control and the request log
                log_config=None,
                access_log=False,  # service.middleware.request_log logs more
                timeout_graceful_shutdown=ceil(settings.shutdown_grace) + SENDING,
            )
        )
        if settings.listens_on != settings.host and not settings.uds:
            log.warning(
                "listening on %s, not on %s, because there are no API keys: set SERVICE_API_KEYS or SERVICE_WITHOUT_KEYS=true",
                settings.listens_on,
                settings.host,
            )
        elif settings.on_any_address and not settings.keys and not settings.uds:
            log.warning("no API keys: anyone who reaches the port may send requests; publish a container's port on 127.0.0.1 only")

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
        if self._loop is None:  # it has not started yet
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
    """Raises the soft limit of file descriptors to the hard limit, because each connection needs one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS reports no limit but allows fewer
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
