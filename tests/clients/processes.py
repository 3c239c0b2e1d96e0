"""The service as a user starts it. Its Python is not the one that runs these tests, so nothing of the service is imported."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("SERVICE_PYTHON", ROOT / ".venv" / "bin" / "python")
START = 120  # seconds in which the service must be ready


@dataclass(frozen=True)
class Server:
    url: str
    model: str = "shakespeare"

    @property
    def v1(self) -> str:
        """The base URL of OpenAI's clients."""
        return f"{self.url}/v1"

    def metric(self, name: str) -> float:
        """The sum of all samples of that name in /metrics."""
        lines = httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


@contextmanager
def service(*flags: object, **variables: str) -> Iterator[Server]:
    """The service with the included model, on a free port; killed at the end."""
    port = free_port()
    command = [str(PYTHON), "-m", "tests.patient_service", "--port", str(port), *map(str, flags)]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | variables) as process:
        try:
            server = Server(f"http://127.0.0.1:{port}")
            _wait_until_ready(process, server.url)
            yield server
        finally:
            process.kill()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until:
        assert process.poll() is None, "the service ended; its log is above"
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise TimeoutError(f"the service was not ready after {START} seconds")
