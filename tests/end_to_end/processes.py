"""The service as a user starts it, a process of its own; and a real nginx before it."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port
from tests.support import wait_until

ROOT = Path(__file__).parents[2]


reads_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@contextmanager
def service(
    *flags: object, port: int | None = None, stderr: int | None = None, **variables: str
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """`python -m service`, on a free port if none is given, and a client for it; killed at the end if it is still there."""
    port = port or free_port()
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


NGINX = shutil.which("nginx", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/homebrew/bin")

needs_nginx = pytest.mark.skipif(NGINX is None, reason="no nginx here; on Debian: apt-get install nginx-light")

# All paths are relative to the folder it is started in; one process, which is whoever runs the tests.
CONFIGURATION = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
access_log off;
client_body_temp_path body;
proxy_temp_path proxy;
fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi;
scgi_temp_path scgi;
{http}
}}
"""


@contextmanager
def nginx(folder: Path, http: Callable[[int], str]) -> Iterator[httpx.Client]:
    """A client of an nginx that runs in the folder. http: its configuration for a port."""
    port = free_port()
    (folder / "nginx.conf").write_text(CONFIGURATION.format(http=http(port)))
    with subprocess.Popen([str(NGINX), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                wait_until(lambda: _listens(process, port))
                yield client
        finally:
            process.kill()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, "nginx ended; what it said is above"
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
