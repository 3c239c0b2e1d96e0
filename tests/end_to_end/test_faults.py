"""Clients that misbehave, and publishers that die, against real processes: who asks as he should notices nothing."""

import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.processes import ROOT, reads_proc, service
from tests.support import Publish, metric, wait_until
from trainer import artifact

BODY: dict[str, Any] = {"start_string": "a", "num_generate": 50, "seed": 1}
ENDLESS = b'{"start_string": "a", "num_generate": 1000000000, "stream": true, "logprobs": 5}'
HEAD = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ENDLESS)

PUBLISHER = """
import sys
from pathlib import Path
from tests.support import ARCHITECTURE, config, random_tensors
from trainer import artifact

architecture = ARCHITECTURE.model_copy(update={"units": 200})  # so that writing takes a while
tensors = random_tensors(architecture)
while True:
    artifact.publish(Path(sys.argv[1]), config(architecture), tensors, {})
"""

Process = subprocess.Popen[bytes]


@contextmanager
def endless(models: Path, *options: object) -> Iterator[tuple[Process, httpx.Client]]:
    """A service with few slots that lets a stream be endless."""
    many = str(10**10)
    limits = ("--max-num-generate", many, "--max-logprobs", many)
    with service("--models-dir", models, "--slots", 4, "--watch", 0.05, *limits, *options) as both:
        yield both


@pytest.fixture
def served(tmp_path: Path, publish: Publish) -> Iterator[tuple[Process, httpx.Client]]:
    publish()
    with endless(tmp_path) as both:
        yield both


@pytest.fixture
def impatient(tmp_path: Path, publish: Publish) -> Iterator[tuple[Process, httpx.Client]]:
    """A service that gives a client one second to send a request or to read something."""
    publish()
    with endless(tmp_path, "--request-timeout", 1) as both:
        yield both


def connect(client: httpx.Client, sent: bytes) -> socket.socket:
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=60)
    connection.sendall(sent)
    return connection


def busy(client: httpx.Client) -> float:
    """Requests that have a slot or wait for one."""
    exposition = client.get("/metrics").text
    return metric(exposition, "folio_num_requests_running") + metric(exposition, "folio_num_requests_waiting")


def ended(client: httpx.Client) -> float:
    """Requests that have ended, however."""
    return metric(client.get("/metrics").text, "folio_request_success_total")


def descriptors(process: Process) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


@reads_proc
def test_clients_that_vanish_leave_nothing_behind(served: tuple[Process, httpx.Client]) -> None:
    """More than have slots, in all phases of a request; some with a word and some without."""
    process, client = served
    before = client.post("/generate", json=BODY).json()["text"]
    files, rng = descriptors(process), random.Random(0)
    with ExitStack() as open_ones:
        for number in range(60):
            whole = HEAD + ENDLESS
            connection = open_ones.enter_context(connect(client, whole if number % 3 else whole[: rng.randrange(len(whole))]))
            if number % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST
        wait_until(lambda: busy(client) > 4)
    wait_until(lambda: busy(client) == 0)
    wait_until(lambda: descriptors(process) <= files)
    assert client.post("/generate", json=BODY).json()["text"] == before


def test_requests_that_do_not_arrive_are_closed_and_others_answered(impatient: tuple[Process, httpx.Client]) -> None:
    _, client = impatient
    stalled = [connect(client, sent) for sent in (b"", HEAD[:20], HEAD + ENDLESS[:20])]
    assert client.post("/generate", json=BODY).status_code == 200
    for connection in stalled:
        assert connection.recv(1000) == b"", "closed, and not by a timeout of the test"
        connection.close()
    assert client.post("/generate", json=BODY).status_code == 200


def test_a_kept_connection_with_nothing_but_an_empty_line_is_closed(impatient: tuple[Process, httpx.Client]) -> None:
    _, client = impatient
    with connect(client, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        received = b""
        while not received.endswith(b'{"status":"ok"}'):  # head and body come as one packet or as two
            more = connection.recv(10_000)
            assert more, received
            received += more
        connection.sendall(b"\r\n")
        assert connection.recv(1000) == b""


def test_half_a_request_behind_a_stream_does_not_cut_it_and_is_closed_after_it(impatient: tuple[Process, httpx.Client]) -> None:
    """The next request's body does not come; the stream takes some three times as long as a request may take to arrive."""
    _, client = impatient
    body = b'{"start_string": "a", "num_generate": 60, "pace": 20, "stream": true}'
    head = HEAD.replace(b"Length: %d" % len(ENDLESS), b"Length: %d" % len(body))
    with connect(client, head + body + HEAD) as connection:
        received = b""
        while more := connection.recv(10_000):
            received += more
    assert received.count(b"event: done") == 1
    assert b"event: error" not in received


@reads_proc
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system can't tell that nothing is read")
def test_a_reader_that_reads_nothing_is_cut_and_frees_everything(impatient: tuple[Process, httpx.Client]) -> None:
    """The answer is longer than all buffers between, so that it would never end."""
    process, client = impatient
    before, files = ended(client), descriptors(process)
    with connect(client, HEAD + ENDLESS):
        wait_until(lambda: ended(client) > before)
        wait_until(lambda: busy(client) == 0)
        wait_until(lambda: descriptors(process) <= files)
    assert client.post("/generate", json=BODY).status_code == 200


def test_publishers_that_are_killed_leave_only_whole_versions(
    tmp_path: Path, served: tuple[Process, httpx.Client], publish: Publish
) -> None:
    _, client = served
    folder, rng = tmp_path / "tiny", random.Random(0)

    def listed() -> Any:
        return client.get("/models").json()

    for _ in range(4):
        before = len(artifact.versions(folder))
        with subprocess.Popen([sys.executable, "-c", PUBLISHER, tmp_path], cwd=ROOT) as process:
            try:
                wait_until(lambda: len(artifact.versions(folder)) > before)  # noqa: B023 - called here only
                time.sleep(rng.uniform(0, 0.05))  # in the middle of a version, or between two
            finally:
                process.kill()
        assert client.post("/generate", json=BODY).status_code == 200
        newest = artifact.versions(folder)[-1]
        wait_until(lambda: listed()["models"][0]["version"] == newest or listed()["refused"])  # noqa: B023 - called here only
        assert listed()["refused"] == []
    for number in artifact.versions(folder):
        artifact.read(folder / str(number))
    last = publish().config.version
    wait_until(lambda: listed()["models"][0]["version"] == last)
