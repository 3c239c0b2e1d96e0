"""The sockets that a server listens on. They are bound before models are loaded, so that an address in use is reported at once."""

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

BACKLOG = 2048  # connections waiting to be accepted
ATTEMPTS = 100  # to find a port that is free on all addresses
MISSING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # the machine lacks this address or its family
ANYBODY = 0o666  # any user may connect, as to a port; the folder's permissions can restrict that


class CannotListen(Exception):
    """The message names the address and the reason."""


class Listeners:
    """Listening sockets, and the file of a Unix socket."""

    def __init__(self, sockets: list[socket.socket], file: Path | None = None) -> None:
        self.sockets = sockets
        self.names = [f"unix:{file}" if file else _url(one) for one in sockets]
        self._file, self._identity = file, file and _identity(file)

    def close(self) -> None:
        """Closes the sockets and removes the file, unless another server has replaced it. May be called again."""
        for one in self.sockets:
            one.close()
        with suppress(OSError):
            if self._file and _identity(self._file) == self._identity:
                self._file.unlink()


def listen(host: str, port: int, uds: Path | None = None) -> Listeners:
    """Listens on the Unix socket if a path is given, else on all addresses of the host. Raises CannotListen.

    `::` means all addresses of the machine, including IPv4 addresses where the system supports that.
    """
    try:
        return _listen_unix(uds) if uds else Listeners(_listen_tcp(host, port))
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while attempting to bind")[0]  # create_server adds the address
        place = str(uds) if uds else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise CannotListen(
            f"cannot listen on {place}: {reason[:1].lower() if reason[1:2].islower() else reason[:1]}{reason[1:]}"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether the name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen_tcp(host: str, port: int) -> list[socket.socket]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    dual_stack = host == "::" and socket.has_dualstack_ipv6()
    for _ in range(ATTEMPTS):
        sockets, error = _bind(addresses, dual_stack)
        if error is None:
            return sockets
        for one in sockets:
            one.close()
        if port or not sockets or error.errno != errno.EADDRINUSE:
            raise error
        # A port that is free on the first address is in use on another one. Try the next free one.
    raise OSError(errno.EADDRINUSE, "no port is free on all addresses")


def _bind(addresses: Sequence[tuple[socket.AddressFamily, Any]], dual_stack: bool) -> tuple[list[socket.socket], OSError | None]:
    """The sockets, and why some or all are missing. An address that the machine lacks may be missing."""
    sockets, missing = list[socket.socket](), list[OSError]()
    for family, address in addresses:
        port = sockets[0].getsockname()[1] if sockets and not address[1] else address[1]  # the same free port for all addresses
        try:
            bound = socket.create_server(
                (address[0], port, *address[2:]), family=family, backlog=BACKLOG, dualstack_ipv6=dual_stack
            )
        except OSError as error:
            missing.append(error)
            if error.errno not in MISSING:
                return sockets, error
        else:
            sockets.append(bound)
    return sockets, None if sockets else missing[-1]


def _listen_unix(file: Path) -> Listeners:
    _remove_stale(file)
    one = socket.socket(socket.AF_UNIX)
    try:
        one.bind(str(file))
        file.chmod(ANYBODY)
        one.listen(BACKLOG)
    except OSError:
        one.close()
        raise
    return Listeners([one], file)


def _remove_stale(file: Path) -> None:
    """Removes the socket of a server that was killed. Raises OSError if the file is in use or not a socket."""
    try:
        kind = file.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(errno.EEXIST, "a file that is not a socket is there")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(file))
        except ConnectionRefusedError:
            file.unlink()
            return
        except BlockingIOError:
            pass  # its queue is full
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _identity(file: Path) -> tuple[int, int]:
    found = file.lstat()
    return found.st_dev, found.st_ino


def _url(one: socket.socket) -> str:
    host, port = one.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
