"""The server as it is started, in a thread, asked over a real socket."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.server import Server
from service.settings import Settings
from tests.support import wait_until


@contextmanager
def served(settings: Settings) -> Iterator[httpx.Client]:
    server = Server(create_app(settings), settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def statuses(client: httpx.Client, *addresses: str) -> list[int]:
    """What is answered to requests that say they came from these."""
    return [client.get("/absent", headers={"X-Forwarded-For": address}).status_code for address in addresses]


def test_a_client_cannot_choose_its_address(tmp_path: Path) -> None:
    with served(Settings(models_dir=tmp_path, port=0, rate_limit="2/hour")) as client:
        assert statuses(client, "192.0.2.1", "192.0.2.2", "192.0.2.3") == [404, 404, 429]
        redirect = client.get("/web/app.js/", headers={"X-Forwarded-Proto": "https"})
        assert redirect.headers["location"].startswith("http://")


@pytest.mark.parametrize("trusted", ["127.0.0.1", "192.0.2.99, 127.0.0.0/8", "*"])
def test_a_trusted_proxy_tells_the_clients_address_and_scheme(tmp_path: Path, trusted: str) -> None:
    with served(Settings(models_dir=tmp_path, port=0, rate_limit="2/hour", trusted_proxies=trusted)) as client:
        first, second = "192.0.2.1", "192.0.2.2"
        assert statuses(client, first, first, second, first, second, second) == [404, 404, 404, 429, 404, 429]
        redirect = client.get("/web/app.js/", headers={"X-Forwarded-Proto": "https"})
        assert redirect.headers["location"].startswith("https://")


def test_another_proxy_is_not_believed(tmp_path: Path) -> None:
    with served(Settings(models_dir=tmp_path, port=0, rate_limit="2/hour", trusted_proxies="192.0.2.99")) as client:
        assert statuses(client, "192.0.2.1", "192.0.2.2", "192.0.2.3") == [404, 404, 429]
