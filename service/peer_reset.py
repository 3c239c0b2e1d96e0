"""Detects that a peer has reset a connection from which nothing is read any more."""

import asyncio
import select
import socket
from collections.abc import Callable
from contextlib import suppress

KEEP_ALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5}  # seconds


class PeerReset:
    """Calls `on_reset` once, when the connection is reset or times out. Needs epoll: on other systems than Linux it does nothing.

    After an end of file, an event loop must stop polling the socket, because it stays readable. An epoll instance that waits for
    no event still reports errors and hangups, and the loop can poll that instance instead.
    """

    def __init__(self, connection: socket.socket, loop: asyncio.AbstractEventLoop, on_reset: Callable[[], object]) -> None:
        self._loop, self._on_reset = loop, on_reset
        self._epoll: select.epoll | None = None
        if not hasattr(select, "epoll"):
            return
        if connection.family != socket.AF_UNIX:
            # A peer that has closed its socket answers a keep-alive probe with a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, seconds in KEEP_ALIVE.items():
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        with suppress(OSError):  # out of file descriptors: the next write will report the reset
            self._epoll = select.epoll()
            self._epoll.register(connection.fileno(), 0)
            loop.add_reader(self._epoll.fileno(), self._report)

    def close(self) -> None:
        """Stops watching. May be called more than once."""
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _report(self) -> None:
        self.close()
        self._on_reset()
