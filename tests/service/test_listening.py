"""What a server listens on, and what its clients' addresses are then."""

import logging
import os
import socket
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.addresses import network, unmapped
from service.connection import Connection
from service.listening import CannotListen, listen
from service.settings import Settings
from tests.ports import free_port
from tests.support import ENDLESS, listening, publish, wait_until


def can_bind_ipv6() -> bool:
    """Python's `has_dualstack_ipv6` does not try to bind, which systems with IPv6 switched off refuse."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return socket.has_dualstack_ipv6()


has_ipv6 = pytest.mark.skipif(not can_bind_ipv6(), reason="no IPv6 here")

ADDRESSES = [
    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
]


def port_of(one: socket.socket) -> int:
    return int(one.getsockname()[1])


@has_ipv6
def test_all_addresses_of_ipv6_are_those_of_ipv4_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(models_dir=tmp_path, port=0, host="::", without_keys=True, rate_limit="2/day", trusted_proxies="127.0.0.1")
    with caplog.at_level(logging.INFO), listening(settings) as (_, client):
        assert [client.get("/absent").status_code for _ in range(3)] == [404, 404, 429]
        with httpx.Client(base_url=f"http://[::1]:{client.base_url.port}", timeout=60) as other:
            assert other.get("/absent").status_code == 404
        forwarded = {"X-Forwarded-For": "192.0.2.1"}
        assert client.get("/absent", headers=forwarded).status_code == 404, "127.0.0.1 is a trusted proxy"
    told = [vars(record)["client"] for record in caplog.records if record.name == "service.middleware.request_log"]
    assert told == ["127.0.0.1"] * 3 + ["::1", "192.0.2.1"]


@has_ipv6
def test_one_address_of_ipv6_is_that_alone_and_a_name_all_it_stands_for() -> None:
    for host, kinds in (("::1", {socket.AF_INET6}), ("127.0.0.1", {socket.AF_INET})):
        listeners = listen(host, 0)
        assert {one.family for one in listeners.sockets} == kinds
        with pytest.raises(CannotListen, match="address already in use"):
            listen(host, port_of(listeners.sockets[0]))
        listeners.close()
    listeners = listen("localhost", 0)
    assert len({port_of(one) for one in listeners.sockets}) == 1
    listeners.close()


@has_ipv6
def test_a_free_port_is_free_on_all_addresses_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    bind, ports = socket.create_server, list[int]()
    taken = free_port()  # of 127.0.0.1
    with socket.create_server(("::1", taken), family=socket.AF_INET6):

        def create_server(address: Any, **options: Any) -> socket.socket:
            ports.append(address[1] if ports else taken)  # the system's first choice is free on 127.0.0.1 only
            return bind((address[0], ports[-1]), **options)

        monkeypatch.setattr("service.listening.socket.getaddrinfo", lambda *_, **__: ADDRESSES)
        monkeypatch.setattr("service.listening.socket.create_server", create_server)
        listeners = listen("localhost", 0)
    first, second = map(port_of, listeners.sockets)
    listeners.close()
    assert first == second != taken


@pytest.mark.parametrize(
    ("host", "said"), [("192.0.2.1", "cannot listen on 192.0.2.1:8000: "), ("no such host", "cannot listen on no such host:8000: ")]
)
def test_what_cannot_be_listened_on_is_said_with_the_reason(host: str, said: str) -> None:
    with pytest.raises(CannotListen, match=said):
        listen(host, 8000)


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"), ("::1", "::/64"), ("fe80::1%eth0", "fe80::/64"), ("unknown", "unknown"), ("", ""),
    ],
)  # fmt: skip
def test_a_network_of_ipv6_counts_as_one_client(address: str, counted: str) -> None:
    assert network(address) == counted


def test_the_hosts_of_one_ipv6_network_share_a_rate(tmp_path: Path) -> None:
    settings = Settings(models_dir=tmp_path, port=0, rate_limit="2/day", trusted_proxies="*")
    with listening(settings) as (_, client):

        def statuses(*addresses: str) -> list[int]:
            return [client.get("/absent", headers={"X-Forwarded-For": address}).status_code for address in addresses]

        assert statuses("2001:db8:1:2::1", "2001:db8:1:2:ffff::1", "2001:db8:1:2::9") == [404, 404, 429]
        assert statuses("2001:db8:1:3::1", "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1") == [404, 404, 404, 429]


def test_addresses_of_a_socket_for_both_kinds_are_written_as_ipv4() -> None:
    for given, plain in (("::ffff:192.0.2.1", "192.0.2.1"), ("::ffff:1", "::ffff:1"), ("::1", "::1"), ("192.0.2.1", "192.0.2.1")):
        assert unmapped(given) == plain


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_unix_socket_is_served_by_any_name_and_removed_at_the_end(
    tmp_path: Path, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "folio.sock"
    publish(tmp_path)
    settings = Settings(models_dir=tmp_path, uds=file, host="0.0.0.0")  # noqa: S104
    with caplog.at_level(logging.INFO), listening(settings, loop) as (_, client):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666
        wait_until(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/generate", json={"start_string": "a", "num_generate": 5}).status_code == 200
    (line,) = [vars(record) for record in caplog.records if record.name == "service.middleware.request_log"]
    assert (line["path"], line["client"]) == ("/generate", None)
    assert f"listening on unix:{file}" in caplog.messages
    assert "there are no API keys" not in caplog.text
    assert not file.exists()


@pytest.mark.slow
def test_a_reader_of_a_unix_socket_that_takes_nothing_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "_start_timer", lambda _: None)  # a busy machine may need longer than the timeout to send
    file = tmp_path / "folio.sock"
    publish(tmp_path)
    settings = Settings(models_dir=tmp_path, uds=file, request_timeout=0.3, max_num_generate=10**9)
    with listening(settings) as (app, client):
        wait_until(lambda: client.get("/readyz").status_code == 200)
        engine = app.state.registry.get("tiny").engine
        with client.stream("POST", "/generate", json=ENDLESS):
            # The request came before the response's headers, and it no longer waits when it runs: so this order.
            wait_until(lambda: (engine.waiting, engine.running) == (0, 0))


def test_the_socket_of_a_killed_server_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    file = tmp_path / "folio.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(file))
    listeners = listen("", 0, file)
    with pytest.raises(CannotListen, match=f"cannot listen on {file}: address already in use"):
        listen("", 0, file)
    file.rename(tmp_path / "moved")
    other = listen("", 0, file)
    listeners.close()
    assert file.exists(), "it is another server's now"
    other.close()
    assert not file.exists()
    file.write_text("a letter")
    with pytest.raises(CannotListen, match="a file that is not a socket is there"):
        listen("", 0, file)
    assert file.read_text() == "a letter"
    with pytest.raises(CannotListen, match="no such file or directory"):
        listen("", 0, tmp_path / "absent" / "folio.sock")
    os.unlink(file)  # noqa: PTH108


def test_a_path_too_long_for_a_socket_is_said(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="too long"):
        listen("", 0, tmp_path / ("a" * 200))
