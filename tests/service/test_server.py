"""The server as it is started, in a thread, asked over a real socket."""

import logging
import select
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from service.settings import Settings
from tests.support import connected, listening, publish, served, wait_until


def statuses(client: httpx.Client, *addresses: str) -> list[int]:
    """What is answered to requests that say they came from these."""
    return [client.get("/absent", headers={"X-Forwarded-For": address}).status_code for address in addresses]


@contextmanager
def telling_schemes(settings: Settings) -> Iterator[tuple[httpx.Client, Callable[[], str]]]:
    """A client of the server, and what a request over https by a proxy is taken for."""
    with listening(settings) as (app, client):

        async def scheme(request: Request) -> PlainTextResponse:
            return PlainTextResponse(request.url.scheme)

        app.add_route("/web/scheme", scheme)
        app.router.routes.insert(0, app.router.routes.pop())  # before the page's own files
        yield client, lambda: client.get("/web/scheme", headers={"X-Forwarded-Proto": "https"}).text


def test_a_client_cannot_choose_its_address_or_scheme(tmp_path: Path) -> None:
    with telling_schemes(Settings(models_dir=tmp_path, port=0, rate_limit="2/day")) as (client, scheme):
        assert statuses(client, "192.0.2.1", "192.0.2.2", "192.0.2.3") == [404, 404, 429]
        assert scheme() == "http"


@pytest.mark.parametrize("trusted", ["127.0.0.1", "192.0.2.99, 127.0.0.0/8", "*"])
def test_a_trusted_proxy_tells_the_clients_address_and_scheme(tmp_path: Path, trusted: str) -> None:
    settings = Settings(models_dir=tmp_path, port=0, rate_limit="2/day", trusted_proxies=trusted)
    with telling_schemes(settings) as (client, scheme):
        first, second = "192.0.2.1", "192.0.2.2"
        assert statuses(client, first, first, second, first, second, second) == [404, 404, 404, 429, 404, 429]
        assert scheme() == "https"


def test_another_proxy_is_not_believed(tmp_path: Path) -> None:
    with served(Settings(models_dir=tmp_path, port=0, rate_limit="2/day", trusted_proxies="192.0.2.99")) as client:
        assert statuses(client, "192.0.2.1", "192.0.2.2", "192.0.2.3") == [404, 404, 429]


@pytest.mark.parametrize("size", [3_000_000, 30_000_000])
def test_a_refusal_is_read_by_a_client_that_sends_all_of_its_body_first(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.connection.LINGER_SECONDS", 1000)  # a busy machine may need more than 1 to send so much
    with served(Settings(models_dir=tmp_path, port=0)) as client:
        request = urllib.request.Request(  # noqa: S310
            f"{client.base_url}/generate", b"x" * size, {"Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request)  # noqa: S310
        with raised.value as answer:
            assert answer.code == 413
            assert b"body_too_long" in answer.read()


PATIENT = 1000  # seconds: the time that a request may take does not end one before `send_on` gives up


def send_on(connection: socket.socket, part: bytes, begun: bytes = b"") -> None:
    """The same again and again, until the server closes the connection."""
    connection.sendall(begun)
    end = time.monotonic() + 300
    while time.monotonic() < end:
        connection.sendall(part)


@pytest.mark.slow
@pytest.mark.parametrize("line", [b"A:\r\n", b"A: %s\r\n" % (b"x" * 1000), b"x" * 1000], ids=["empty", "short", "one without end"])
def test_headers_without_end_are_cut_off(tmp_path: Path, line: bytes) -> None:
    with served(Settings(models_dir=tmp_path, port=0, request_timeout=PATIENT)) as client, connected(client) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + (b"B: " if b"\r" not in line else b""))
        with pytest.raises(ConnectionError):
            send_on(connection, line * 100)


@pytest.mark.slow
def test_headers_that_are_too_long_are_answered_so(tmp_path: Path) -> None:
    with served(Settings(models_dir=tmp_path, port=0, request_timeout=PATIENT)) as client, connected(client) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: ")
        while not select.select([connection], [], [], 0)[0]:
            connection.sendall(b"x")
        received = connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 431 ")
    assert b'"code": "headers_too_long"' in received


@pytest.mark.slow
def test_what_frames_a_chunked_body_is_bounded(tmp_path: Path) -> None:
    head = b"POST /vectorize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    settings = Settings(models_dir=tmp_path, port=0, request_timeout=PATIENT)
    with served(settings) as client, connected(client) as connection, pytest.raises(ConnectionError):
        send_on(connection, b"Trailer: x\r\n" * 1000, head + b"1\r\nx\r\n0\r\n")


def test_a_long_body_in_many_pieces_is_none_of_the_headers(tmp_path: Path) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"text": "'
        yield from [b"a" * 1000] * 95
        yield b'"}'

    publish(tmp_path)
    with served(Settings(models_dir=tmp_path, port=0)) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        response = client.post("/vectorize", content=body(), headers={"Content-Type": "application/json"})
    assert response.status_code == 200, response.text[:1000]


def test_asking_for_a_websocket_passes_by_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    caplog.set_level(logging.WARNING, "httpx")  # which runs in this process too
    caplog.set_level(logging.INFO)
    with served(Settings.model_validate({"models_dir": tmp_path, "port": 0, "api_keys": "correct-horse-battery"})) as client:
        response = client.get("/generate?start_string=MYSECRET", headers=upgrade)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "missing_api_key"
    assert "/generate" in caplog.text
    assert "MYSECRET" not in caplog.text
