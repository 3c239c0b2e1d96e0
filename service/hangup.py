"""Notices that the other end of a connection has reset it, although nothing is read from it any more."""

import asyncio
import select
import socket
from collections.abc import Callable
from contextlib import suppress

PROBES = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5}  # seconds


class Hangup:
    """Calls `hung_up`, once, when the connection is reset or times out. Does nothing where there is no epoll: only on Linux.

    After an end of file an event loop no longer polls a connection, or it would find it readable for ever. An epoll instance
    that waits for no event reports errors and hangups all the same, and can be polled by the loop in the connection's place.
    """

    def __init__(self, connection: socket.socket, loop: asyncio.AbstractEventLoop, hung_up: Callable[[], object]) -> None:
        self._loop, self._hung_up = loop, hung_up
        self._epoll: select.epoll | None = None
        if not hasattr(select, "epoll"):
            return
        if connection.family != socket.AF_UNIX:
            # The other system may have forgotten a connection that its program has closed: it then answers a probe with a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, seconds in PROBES.items():
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        with suppress(OSError):  # no file descriptor is left: the next write will tell
            self._epoll = select.epoll()
            self._epoll.register(connection.fileno(), 0)
            loop.add_reader(self._epoll.fileno(), self._report)

    def close(self) -> None:
        """Stops. May be called more than once."""
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _report(self) -> None:
        self.close()
        self._hung_up()
