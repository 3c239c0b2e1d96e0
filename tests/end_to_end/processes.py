"""The service as a user starts it: a process of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support import wait_until

ROOT = Path(__file__).parents[2]


@contextmanager
def service(*flags: object, stderr: int | None = None, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """`python -m service` on a free port, and a client for it; killed at the end if it is still there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service", "--port", str(port), *map(str, flags)]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, stderr=stderr) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                wait_until(lambda: ready(process, client))
                yield process, client
        finally:
            process.kill()


def ready(process: subprocess.Popen[bytes], client: httpx.Client) -> bool:
    assert process.poll() is None, "the service ended; its log is above"
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
