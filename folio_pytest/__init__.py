"""A pytest plugin, loaded wherever Folio is installed: the fixture `folio` is a real server of a small, deterministic model.

It imports nothing of Folio: in a project with a package `service` of its own, that name means the project's.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from openai import OpenAI

SERVER = "service.pytest_server"
STARTED = "folio is ready: "


class FolioServer:
    """A running server without API keys. base_url: its address, such as http://127.0.0.1:41234. Add /v1 for OpenAI's API."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def openai_client(self, **options: Any) -> "OpenAI":
        """A client of the package openai for this server. options: of `openai.OpenAI`. Skips the test if it is not installed."""
        openai = pytest.importorskip("openai")
        client: OpenAI = openai.OpenAI(**{"base_url": f"{self.base_url}/v1", "api_key": "none", **options})
        return client


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("folio", "a server of a small language model, for the fixture `folio`")
    group.addoption("--folio-seed", type=int, default=0, help="seed of requests that have none (default: 0); -1: a random one")
    parser.addini("folio_flags", "options of `folio serve` for the fixture `folio`, such as --any-model", type="args", default=[])


@pytest.fixture(scope="session")
def folio(pytestconfig: pytest.Config) -> Iterator[FolioServer]:
    """A Folio server for all tests of this session, on a free port of 127.0.0.1. It serves the model that comes with Folio."""
    seed = pytestconfig.getoption("--folio-seed")
    flags = [] if seed < 0 else ["--seed", str(seed)]
    # -P: not from the current folder, which may hold a package `service` of the project.
    command = [sys.executable, "-P", "-m", SERVER, *flags, *pytestconfig.getini("folio_flags")]
    # The variables of a developer's own server are not meant for this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SERVICE_")}
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as log,
        # A session of its own: Ctrl-C interrupts the tests, which end the server.
        subprocess.Popen(  # noqa: S603 - this program
            command, env=environment, stdin=pipe, stdout=pipe, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            yield FolioServer(_address(process, log))
        finally:
            process.kill()


def _address(process: "subprocess.Popen[bytes]", log: IO[bytes]) -> str:
    """Waits until the server is ready. Fails with its log if it ends instead."""
    line = process.stdout.readline().decode() if process.stdout else ""
    if not line.startswith(STARTED):
        process.wait()
        log.seek(0)
        pytest.fail(f"the Folio server did not start:\n{log.read().decode(errors='replace')}", pytrace=False)
    return line.removeprefix(STARTED).strip()
