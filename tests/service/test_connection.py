"""What a server does with connections: kept, half-closed, abandoned, and unreadable ones, over real sockets."""

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.connection import Connection
from service.settings import Settings
from tests.sse import events
from tests.support import ENDLESS, Gate, connected, listening, publish, served, wait_until

LONG_TIME = 1000  # seconds
BODY: dict[str, Any] = {"start_string": "a", "num_generate": 300, "seed": 1}
GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    publish(folder)
    return folder


@contextmanager
def ready(models: Path, loop: str = "auto", **fields: Any) -> Iterator[tuple[Any, httpx.Client]]:
    """The engine of the one model, and a client of a server that is ready."""
    settings = Settings.model_validate({"models_dir": models, "port": 0, "max_num_generate": 10**9, "watch": 0} | fields)
    with listening(settings, loop) as (app, client):
        assert app.state.registry.wait_until_loaded(60)
        yield app.state.registry.get("tiny").engine, client


def post(body: dict[str, Any], version: str = "1.1", path: str = "/generate") -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/{version}\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while more := connection.recv(65536):
        received += more
    return received


def read_answer(connection: socket.socket) -> bytes:
    """One answer whose length its head gives."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += received_from(connection, 1)
    length = int(received.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    while len(received.partition(b"\r\n\r\n")[2]) < length:
        received += received_from(connection, length)
    return received


def received_from(connection: socket.socket, most: int) -> bytes:
    received = connection.recv(most)
    assert received, "the server has closed the connection"
    return received


def is_closed(connection: socket.socket) -> bool:
    """Waits until the server sends something or closes the connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:  # something was sent to it after that
        return True


def without_timers(patch: pytest.MonkeyPatch) -> None:
    """From now on a request may take any time to arrive. A busy machine may need longer than a test allows."""
    patch.setattr(Connection, "_start_timer", lambda _: None)


def test_an_idle_connection_is_kept_for_longer_than_proxies_keep_it() -> None:
    assert Settings().keep_alive > 60, "nginx keeps an idle connection to a server for 60 seconds"


def test_the_time_a_request_may_take_does_not_limit_a_connection_between_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(models_dir=tmp_path, port=0, keep_alive=LONG_TIME, request_timeout=0.3)
    with served(settings) as client, ExitStack() as open_ones:
        with monkeypatch.context() as patch:
            without_timers(patch)
            kept = open_ones.enter_context(connected(client))
            kept.sendall(GET)
            assert read_answer(kept).startswith(b"HTTP/1.1 200")
        kept.sendall(GET)
        assert read_answer(kept).startswith(b"HTTP/1.1 200")
        with connected(client) as silent, connected(client) as begun:
            with suppress(ConnectionError):
                begun.sendall(GET[:10])
            assert is_closed(silent), "it has sent nothing in that time"
            assert is_closed(begun)
        kept.sendall(GET)
        assert read_answer(kept).startswith(b"HTTP/1.1 200")


def test_an_idle_connection_is_closed_in_the_end(tmp_path: Path) -> None:
    settings = Settings(models_dir=tmp_path, port=0, keep_alive=0.2, request_timeout=LONG_TIME)
    with served(settings) as client, connected(client) as kept:
        kept.sendall(GET)
        read_answer(kept)
        assert kept.recv(1) == b""


@pytest.mark.slow
@pytest.mark.parametrize(
    "request_", [
        b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /healthz HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n", b"\x16\x03\x01\x02",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
        b"POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        GET + b"what now\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_not_http_is_answered_in_the_shape_of_errors_and_the_connection_closed(tmp_path: Path, request_: bytes) -> None:
    with served(Settings(models_dir=tmp_path, port=0)) as client, connected(client) as connection:
        connection.sendall(request_)
        if request_.startswith(GET):
            assert read_answer(connection).startswith(b"HTTP/1.1 200")
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    status, *headers = head.decode().lower().split("\r\n")
    assert status == "http/1.1 400 bad request"
    assert {"content-type: application/json", "connection: close", f"content-length: {len(body)}"} <= set(headers)
    error = json.loads(body)["error"]
    assert (error.pop("code"), bool(error.pop("message"))) == ("invalid_http", True)
    assert error == {"type": "invalid_request_error", "param": None}


@pytest.mark.parametrize("pieces", [1, 2, 50])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_offer_of_another_protocol_is_ignored(
    models: Path, caplog: pytest.LogCaptureFixture, pieces: int, chunked: bool
) -> None:
    """As Java's HttpClient and `curl --http2` make it with every request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nHost:"
    sent = post(BODY).replace(b"Host:", offer)
    if chunked:
        head, _, content = sent.partition(b"\r\n\r\n")
        head = head.replace(b"Content-Length: %d" % len(content), b"Transfer-Encoding: chunked")
        sent = head + b"\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
    size = len(sent) // pieces + 1
    with ready(models) as (_, client), connected(client) as connection:
        expected = client.post("/generate", json=BODY).json()["text"]
        for request in (sent, sent + GET.replace(b"Host:", offer)):  # alone, and with another one behind it
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(request), size):
                connection.sendall(request[at : at + size])
            answer = read_answer(connection)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["text"] == expected
        assert json.loads(read_answer(connection).partition(b"\r\n\r\n")[2]) == {"status": "ok"}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_connect_is_refused(tmp_path: Path) -> None:
    with served(Settings(models_dir=tmp_path, port=0)) as client, connected(client) as connection:
        connection.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 4")


def test_a_length_may_begin_with_any_number_of_zeros(models: Path) -> None:
    request = post(BODY).replace(b"Content-Length: ", b"Content-Length: " + b"0" * 5000)
    with ready(models) as (_, client), connected(client) as connection:
        connection.sendall(request)
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_what_is_not_http_behind_a_request_does_not_cut_its_answer(models: Path) -> None:
    with ready(models) as (_, client), connected(client) as connection:
        connection.sendall(post(BODY | {"stream": True, "pace": 1000}) + b"what now\r\n\r\n")
        received = read_to_end(connection)
    answer, _, refusal = received.partition(b"0\r\n\r\n")
    assert answer.count(b"event: done") == 1
    assert refusal.startswith(b"HTTP/1.1 400 ")


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_closes_its_side_only_is_answered_in_full(models: Path, loop: str, version: str, streamed: bool) -> None:
    """Its generation has to wait, so that the server has to decide whether the client is gone."""
    with ready(models, loop, slots=1) as (engine, client), connected(client) as connection, pytest.MonkeyPatch.context() as patch:
        expected = client.post("/generate", json=BODY).json()["text"]
        gate = Gate(engine.backend, patch, permits=0)
        connection.sendall(post(BODY | {"stream": streamed, "echo": True}, version))
        connection.shutdown(socket.SHUT_WR)
        if version == "1.1" and not streamed:
            assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n", "any HTTP/1.1 client accepts that"
        with connected(client) as gone:  # its end comes later, so the server knows of both
            gone.sendall(post(BODY | {"stream": True}))
            wait_until(lambda: engine.running + engine.waiting == 2)
        wait_until(lambda: engine.running + engine.waiting == 1)
        gate.open()
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert (b"transfer-encoding" in head) == (streamed and version == "1.1")
    assert expected == (text_of(body, chunked=version == "1.1") if streamed else json.loads(body)["text"])


def text_of(body: bytes, *, chunked: bool) -> str:
    if chunked:
        whole, rest = b"", body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            whole, rest = whole + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        body = whole
    *texts, done = events([body])
    assert done.name == "done"
    return "".join(event.data["text"] for event in texts)


def test_requests_sent_together_are_all_answered_when_the_client_has_closed_its_side(models: Path) -> None:
    with ready(models) as (_, client), connected(client) as connection:
        unfinished = post(BODY)[:-1]
        connection.sendall(post(BODY) + post(BODY | {"stream": True}) + GET + unfinished)
        connection.shutdown(socket.SHUT_WR)
        received = read_to_end(connection)
    assert [received.count(part) for part in (b"HTTP/1.1 200", b"event: done", b'{"status":"ok"}')] == [3, 1, 1]


def test_a_request_that_the_end_of_a_clients_side_cuts_is_closed(models: Path) -> None:
    with ready(models, request_timeout=LONG_TIME) as (_, client):
        for part in (b"", GET[:-2], post(BODY)[:-1]):
            with connected(client) as connection:
                connection.sendall(part)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b""


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_closes_both_sides_frees_its_slot_though_nothing_was_to_be_sent(
    models: Path, loop: str, streamed: bool
) -> None:
    with ready(models, loop, slots=1) as (engine, client), pytest.MonkeyPatch.context() as patch:
        gate = Gate(engine.backend, patch, permits=0)
        with connected(client) as one, connected(client) as other:  # one has the slot, the other waits for it
            for connection in (one, other):
                connection.sendall(post(BODY | {"stream": streamed}))
            wait_until(lambda: (engine.running, engine.waiting) == (1, 1))
        wait_until(lambda: engine.running + engine.waiting == 0)
        gate.open()


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_client_that_leaves_with_more_requests_queued_frees_its_slot(
    models: Path, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ready(models, loop) as (engine, client):
        with connected(client) as connection:
            connection.sendall(post(ENDLESS) + GET)
            wait_until(lambda: engine.running == 1)
        wait_until(lambda: engine.running == 0)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_a_stream_to_http_1_0_is_not_framed_and_ends_with_the_connection(models: Path, path: str) -> None:
    body = {"start_string": "a", "num_generate": 20} if path == "/generate" else {"prompt": "a", "max_tokens": 20}
    with ready(models) as (_, client), connected(client) as connection:
        connection.sendall(post(body | {"stream": True}, "1.0", path))
        head, _, received = read_to_end(connection).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert received.startswith(b"data: ")
    assert received.endswith(b"\n\n")
    assert b"\r\n" not in received


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/absent", "/models"])
def test_other_answers_to_http_1_0_are_whole(models: Path, path: str) -> None:
    with ready(models) as (_, client), connected(client) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
        length = len(client.get(path).content) if path != "/metrics" else len(body)
    assert f"content-length: {length}".encode() in head
    assert len(body) == length


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.name == "service.middleware.request_log"]


def test_a_request_that_does_not_arrive_in_time_is_logged_and_counted_as_that(
    models: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO), ready(models, request_timeout=0.3) as (_, client):
        for _ in range(100):
            with connected(client) as slow, suppress(ConnectionError):
                slow.sendall(post(BODY)[:-1])  # its head has to arrive within that time
                assert is_closed(slow)
            without_timers(monkeypatch)
            client.get("/healthz")  # is answered after the line is written
            if logged(caplog):
                break
            monkeypatch.undo()
        counted = client.get("/metrics").text
    assert [line["status"] for line in logged(caplog)] == [408]
    assert 'folio_http_responses_total{status="408"} 1.0' in counted


def test_a_request_whose_client_leaves_before_it_has_arrived_is_logged_and_counted_as_that(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), ready(models) as (_, client):
        with connected(client) as gone:
            gone.sendall(post(BODY)[:-1])
        wait_until(lambda: logged(caplog))
        counted = client.get("/metrics").text
    assert [line["status"] for line in logged(caplog)] == [499]
    assert 'folio_http_responses_total{status="499"} 1.0' in counted


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("half_closed", [False, True])
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system can't tell that nothing is read")
def test_a_reader_that_takes_nothing_is_logged_as_that(
    models: Path, loop: str, half_closed: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_timers(monkeypatch)
    with (
        caplog.at_level(logging.INFO),
        ready(models, loop, request_timeout=0.3, max_logprobs=10**11) as (engine, client),
        connected(client) as connection,
    ):
        connection.sendall(post(ENDLESS | {"logprobs": 5}))
        if half_closed:
            connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: logged(caplog))
        assert engine.running == 0
    (line,) = logged(caplog)
    assert (line["status"], line["finish_reasons"]) == (200, "timeout")
