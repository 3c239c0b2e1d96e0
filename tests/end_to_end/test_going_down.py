"""How a server stops: in order when told once, at once when told twice, and never with a request hanging."""

import os
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.processes import reads_proc, service
from tests.sse import events
from tests.support import ENDLESS, Publish, running, wait_until

SHORT: dict[str, Any] = {"start_string": "a", "num_generate": 5}
LONG = ("--max-num-generate", ENDLESS["num_generate"])


@pytest.fixture
def models(tmp_path: Path, publish: Publish) -> Path:
    publish()
    return tmp_path


def test_told_to_stop_it_is_not_ready_first_and_serves_on_meanwhile(models: Path) -> None:
    with service("--models-dir", models, "--shutdown-delay", 1000) as (process, client):
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: client.get("/readyz").status_code == 503)
        assert client.get("/readyz").json()["error"]["message"] == "the server is shutting down"
        assert client.get("/healthz").status_code == 200
        assert client.post("/generate", json=SHORT).status_code == 200
        assert process.poll() is None


def test_a_stream_that_ends_within_the_grace_is_whole(models: Path) -> None:
    body = SHORT | {"num_generate": 3000, "seed": 1, "pace": 3000, "stream": True}
    with service("--models-dir", models, "--shutdown-delay", 0, "--shutdown-grace", 60) as (process, client):
        expected = client.post("/generate", json=body | {"stream": False, "pace": 1e6}).json()["text"]
        with client.stream("POST", "/generate", json=body) as response:
            received = events(response.iter_bytes())
            first = next(received)
            process.send_signal(signal.SIGTERM)
            *rest, last = received
        assert last.name == "done"
        assert "a" + "".join(event.data["text"] for event in [first, *rest]) == expected
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stream_that_outlasts_the_grace_ends_with_an_error_event(models: Path, number: signal.Signals) -> None:
    flags = ("--models-dir", models, "--shutdown-delay", 0, "--shutdown-grace", 0.2, *LONG)
    with service(*flags) as (process, client), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/generate", json=ENDLESS | {"stream": False, "pace": 1})
        with client.stream("POST", "/generate", json=ENDLESS | {"pace": 100}) as response:
            received = events(response.iter_bytes())
            assert next(received).name == "message"
            wait_until(lambda: running(client) == 2)
            process.send_signal(number)
            *_, last = received
        assert (last.name, last.data["error"]["code"]) == ("error", "engine_stopped")
        assert last.data["error"]["message"] == "the server is shutting down"
        assert waiting.result().status_code == 503
        assert process.wait(timeout=60) == 0


def test_told_twice_it_ends_at_once(models: Path) -> None:
    with (
        service("--models-dir", models, "--shutdown-delay", 0, "--shutdown-grace", 1000, *LONG) as (process, client),
        client.stream("POST", "/generate", json=ENDLESS | {"pace": 1}) as response,
    ):
        received = response.iter_raw()  # kept: httpx closes the connection when its iterator is dropped
        next(received)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: _refuses(client.base_url.port))  # it has been told
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 128 + signal.SIGINT
        with pytest.raises(httpx.RemoteProtocolError):
            list(received)


def test_half_a_request_holds_nothing_up(models: Path) -> None:
    with service("--models-dir", models, "--shutdown-delay", 0, "--shutdown-grace", 1000) as (process, client):
        address = ("127.0.0.1", client.base_url.port or 0)
        with (
            socket.create_connection(address) as body,
            socket.create_connection(address) as head,
            socket.create_connection(address),
        ):
            body.sendall(
                b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{"
            )
            head.sendall(b"POST /generate HT")
            wait_until(lambda: client.get("/readyz").status_code == 200)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a file that hangs who reads it")
def test_a_volume_that_hangs_holds_nothing_up(models: Path) -> None:
    with service("--models-dir", models, "--shutdown-delay", 0, "--watch", 0.05) as (process, client):
        pipe, ends = models / "tiny" / "9" / "config.json", list[int]()
        pipe.parent.mkdir()
        os.mkfifo(pipe)
        wait_until(lambda: _hold(pipe, ends))  # from now on the server waits for what is never written
        assert client.post("/generate", json=SHORT).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        os.close(*ends)


def _hold(pipe: Path, ends: list[int]) -> bool:
    """Opens its other end if somebody reads it."""
    with suppress(OSError):
        ends.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    return bool(ends)


@reads_proc
def test_without_keys_it_listens_on_loopback_only_and_says_so(models: Path) -> None:
    flags = ("--models-dir", models, "--host", "0.0.0.0", "--log-format", "plain")  # noqa: S104 - that is the question
    with service(*flags, stderr=subprocess.PIPE) as (process, client):
        assert _listening(client.base_url.port) == {"127.0.0.1"}
        process.terminate()
        said = process.communicate(timeout=60)[1].decode()
    assert "listening on 127.0.0.1, not on 0.0.0.0, because there are no API keys" in said
    with service(*flags, SERVICE_API_KEYS="correct-horse-battery") as (_, client):
        assert _listening(client.base_url.port) == {"0.0.0.0"}  # noqa: S104
        assert client.get("/models").status_code == 401
        assert client.get("/models", headers={"X-API-Key": "correct-horse-battery"}).status_code == 200


def _refuses(port: int | None) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port or 0)).close()
    except ConnectionRefusedError:
        return True
    return False


def _listening(port: int | None) -> set[str]:
    """The addresses on which somebody listens at the port, by Linux's table."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = [line[1].split(":") for line in lines if line[3] == "0A"]
    return {socket.inet_ntoa(bytes.fromhex(address)[::-1]) for address, end in ends if int(end, 16) == port}
