"""Which Host headers are answered, by real requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.support import connected, run_server

KEY = "correct-horse-battery"
LOCAL = ["localhost", "localhost:8000", "LOCALHOST.", "folio.localhost", "127.0.0.1:1", "127.9.9.9", "[::1]", "[::1]:8000"]
FOREIGN = ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost", ""]
NAMES, ADDRESSES = ["folio.example", "a.b.folio.test:80", "API"], ["192.0.2.1", "[2001:db8::1]:8000"]


@contextmanager
def answering(models: Path, fields: dict[str, Any]) -> Iterator[httpx.Client]:
    settings = Settings.model_validate({"models_dir": models} | fields)
    with run_server(create_app(settings)) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "answered", "refused"),
    [
        ({}, LOCAL, FOREIGN + NAMES + ADDRESSES),
        ({"host": "folio.example"}, [*LOCAL, "folio.example:1"], [*FOREIGN, "api", *ADDRESSES]),
        ({"host": "::"}, LOCAL + ADDRESSES, FOREIGN + NAMES),
        ({"host": "0.0.0.0", "without_keys": True}, LOCAL + ADDRESSES, FOREIGN + NAMES),  # noqa: S104
        ({"allowed_hosts": "folio.example, *.folio.test api"}, LOCAL + NAMES, [*FOREIGN, *ADDRESSES, "folio.test"]),
        ({"allowed_hosts": "192.0.2.1 2001:DB8:0::1"}, LOCAL + ADDRESSES, FOREIGN + NAMES),
        ({"allowed_hosts": "*"}, LOCAL + FOREIGN + NAMES + ADDRESSES, []),
        ({"api_keys": KEY}, LOCAL + FOREIGN + NAMES + ADDRESSES, []),
        ({"api_keys": KEY, "allowed_hosts": "folio.example"}, [*LOCAL, "folio.example"], FOREIGN + ADDRESSES),
    ],
)
def test_only_the_servers_own_names_are_answered(
    tmp_path: Path, fields: dict[str, Any], answered: list[str], refused: list[str]
) -> None:
    with answering(tmp_path, fields) as client:
        for host in answered:
            assert client.get("/docs", headers={"Host": host}).status_code == 200, host
        for host in refused:
            response = client.get("/docs", headers={"Host": host})
            assert (response.status_code, response.json()["error"]["code"]) == (421, "host_not_allowed"), host
            assert "--allowed-hosts" in response.json()["error"]["message"]
            assert client.post("/generate", content=b"x" * 10_000, headers={"Host": host}).headers["connection"] == "close"
        for host in LOCAL + FOREIGN + NAMES:
            assert client.get("/healthz", headers={"Host": host}).status_code == 200, "a probe knows addresses only"


@pytest.mark.parametrize(("allowed_hosts", "keys"), [("", ""), ("*", ""), ("", KEY)])
def test_http_1_1_needs_one_host_and_1_0_none(tmp_path: Path, allowed_hosts: str, keys: str) -> None:
    with answering(tmp_path, {"allowed_hosts": allowed_hosts, "api_keys": keys}) as client:
        for version, headers, status in (
            ("1.1", "", 400), ("1.1", "Host: localhost\r\nHost: localhost\r\n", 400), ("1.1", "Host: a b\r\n", 400),
            ("1.1", "Host: [::1\r\n", 400), ("1.1", "Host: u@localhost\r\n", 400), ("1.0", "", 200),
            ("1.0", "Host: localhost\r\n", 200),
        ):  # fmt: skip
            with connected(client) as connection:
                connection.sendall(f"GET /healthz HTTP/{version}\r\n{headers}\r\n".encode())
                assert connection.recv(10_000).startswith(f"HTTP/1.1 {status} ".encode()), (version, headers)
