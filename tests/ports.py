"""Free TCP ports for processes that tests and benchmarks start. Needs only Python, so it works in every environment."""

import random
import socket
from contextlib import ExitStack

# Below the ports that systems give to outgoing connections, which could take one before the process listens on it.
PORTS = range(10_000, 32_000)


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ones of 127.0.0.1."""
    with ExitStack() as stack:
        return [stack.enter_context(_bound()).getsockname()[1] for _ in range(count)]


def _bound() -> socket.socket:
    for port in random.SystemRandom().sample(PORTS, 100):
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            continue  # another process uses it
    raise OSError("no free port was found")
