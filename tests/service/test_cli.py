"""python -m service generate, as a process: with a server and without, and when things go wrong."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.support import ARCHITECTURE, config, random_tensors, serving
from trainer import artifact


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    artifact.publish(folder, config(ARCHITECTURE), random_tensors(ARCHITECTURE), {})
    return folder


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[httpx.Client]:
    with serving(Settings(models_dir=models)) as (_, client):
        yield client


def generate(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "generate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | environment)


@pytest.mark.slow
@pytest.mark.parametrize("by_server", [True, False])
def test_the_text_is_generates_and_the_receipt_is_on_stderr(models: Path, client: httpx.Client, by_server: bool) -> None:
    body = {"start_string": "é To\n", "seed": 4, "num_generate": 300, "temperature": 0.7, "top_k": 9, "stop": ["zq"]}
    expected = client.post("/generate", json=body).json()["text"]
    where = ["--url", client.base_url] if by_server else ["--models-dir", models]
    options = ["--seed", 4, "--num-generate", 300, "--temperature", 0.7, "--top-k", 9, "--stop", "zq"]
    done = generate("é To\n", *options, *where)
    assert (done.returncode, done.stdout) == (0, expected + "\n")
    assert "300 characters (length)" in done.stderr
    assert "seed 4" in done.stderr


@pytest.mark.slow
def test_what_is_wrong_is_said(models: Path, client: httpx.Client, tmp_path: Path) -> None:
    for arguments, message in (
        (["a1", "--url", client.base_url], "'1' at position 1"),
        (["a", "--url", client.base_url, "--temperature", "-1"], "temperature"),
        (["a", "--models-dir", models, "--seed", 10**23], "seed"),
        (["a", "--models-dir", models, "--pace", 0], "--pace is 0"),
        (["a1", "--models-dir", models], "'1' at position 1"),
        (["a", "--models-dir", tmp_path], "no published version"),
        (["a", "--models-dir", tmp_path / "being loaded"], "being loaded: No such file"),
        (["a", "--url", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["a", "--url", "http://[::1"], "http://[::1"),
        (["a", "--url", f"{client.base_url}/absent"], "there is no /absent/generate"),
        (["a", "--temperature", "nan"], "finite"),
        (["a\udcff"], "UTF-8"),
    ):
        done = generate(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "LOCALHOST"])
def test_a_proxy_is_not_asked_for_a_server_on_this_machine(client: httpx.Client, host: str) -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    done = generate("a", "--url", f"http://{host}:{client.base_url.port}", NO_PROXY="", no_proxy="", **proxies)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_neither_a_narrow_terminal_nor_a_wrong_variable_is_in_the_way(models: Path) -> None:
    options = ["--models-dir", models, "--num-generate", 20]
    assert generate("é語", *options, PYTHONIOENCODING="ascii").stdout.startswith("\\xe9\\u8a9e")
    done = generate("a", *options, SERVICE_PORT="99999999")
    assert (done.returncode, "SERVICE_PORT" in done.stderr, "Traceback" in done.stderr) == (1, True, False)
    done = generate("a", *options, SERVICE_API_KEYS="short")
    assert (done.returncode, "at least 16 characters" in done.stderr, "Traceback" in done.stderr) == (1, True, False)


@pytest.mark.slow
def test_a_stream_that_is_cut_is_gone_on_with(client: httpx.Client) -> None:
    """A proxy lets so many bytes of the first three connections through, and all of later ones."""
    budget = iter([400, 900, 2500])
    served = (client.base_url.host, client.base_url.port or 80)

    def pass_on(connection: socket.socket) -> None:
        limit = next(budget, 10**9)
        with connection, socket.create_connection(served) as upstream:

            def send() -> None:
                with suppress(OSError):
                    while data := connection.recv(65536):
                        upstream.sendall(data)

            threading.Thread(target=send, daemon=True).start()
            with suppress(OSError):
                while limit > 0 and (data := upstream.recv(min(limit, 65536))):
                    connection.sendall(data)
                    limit -= len(data)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def accept() -> None:
            while True:
                try:
                    connection, _ = proxy.accept()
                except OSError:
                    return
                threading.Thread(target=pass_on, args=[connection], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        done = generate("To be", "--num-generate", 500, "--url", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        proxy.shutdown(socket.SHUT_RDWR)
    seed = int(done.stderr.rpartition("seed ")[2])
    expected = client.post("/generate", json={"start_string": "To be", "num_generate": 500, "seed": seed}).json()["text"]
    assert (done.returncode, done.stdout) == (0, expected + "\n")
    assert next(budget, None) is None, "the first two cannot hold the stream"


@pytest.mark.slow
def test_a_key_comes_from_its_variable_and_a_servers_own_settings_are_not_in_the_way(models: Path) -> None:
    key = "correct-horse-battery"
    with serving(Settings.model_validate({"models_dir": models, "api_keys": key})) as (_, client):
        ask = ("a", "--num-generate", 5, "--url", client.base_url)
        assert generate(*ask, FOLIO_API_KEY=key).returncode == 0
        for variables in ({}, {"FOLIO_API_KEY": ""}, {"FOLIO_API_KEY": "another"}):
            done = generate(*ask, **variables)
            assert (done.returncode, done.stdout) == (1, "")
            assert "API key" in done.stderr
            assert "the variable FOLIO_API_KEY" in done.stderr
        for impossible in ("é", "a\nb"):
            done = generate(*ask, FOLIO_API_KEY=impossible)
            assert (done.returncode, "the variable FOLIO_API_KEY" in done.stderr, "Traceback" in done.stderr) == (1, True, False)
            assert "a\nb" not in done.stderr, "a key is not shown"
    alone = generate("a", "--num-generate", 5, "--models-dir", models, SERVICE_API_KEYS=key, SERVICE_RATE_LIMIT="1/hour")
    assert alone.returncode == 0, alone.stderr


@pytest.mark.slow
@pytest.mark.parametrize("by_server", [True, False])
def test_a_stop_string_may_be_written_with_escapes(models: Path, client: httpx.Client, by_server: bool) -> None:
    body = {"start_string": "a", "num_generate": 2000, "seed": 1, "stop": ["\n", "z\tz", "\\d"]}
    expected = client.post("/generate", json=body).json()
    assert (expected["finish_reason"], len(expected["text"])) == ("stop", len(expected["text"].split("\n")[0]))
    where = ["--url", client.base_url] if by_server else ["--models-dir", models]
    options = ["--seed", 1, "--num-generate", 2000, "--stop", r"\n", "--stop", r"z\tz", "--stop", r"\\d", *where]
    done = generate("a", *options)
    assert (done.returncode, done.stdout) == (0, expected["text"] + "\n")
    warned = [line for line in done.stderr.splitlines() if "cannot occur" in line]
    assert ["'z\\tz'" in warned[0], "'\\\\d'" in warned[1], len(warned)] == [True, True, 2], warned
    assert warned[0].endswith(r"tiny does not know '\t'")


@pytest.mark.slow
@pytest.mark.parametrize("end", ["/", "//", "/v1", "/v1/"])
def test_an_address_may_end_with_a_slash_or_be_that_of_openais_clients(client: httpx.Client, end: str) -> None:
    done = generate("a", "--num-generate", 5, "--url", str(client.base_url).rstrip("/") + end)
    assert (done.returncode, len(done.stdout)) == (0, 7), done.stderr


@contextmanager
def other_server(status: int, kind: str, body: str) -> Iterator[str]:
    """Answers everything so."""

    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the library's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


EVENTS, HTML, JSON = "text/event-stream", "text/html", "application/json"
OTHERS = [
    (200, JSON, "[]"), (200, JSON, "{}"), (200, HTML, "<p>hello"), (404, HTML, "<p>no"), (404, JSON, '{"error": "text"}'),
    (500, JSON, '{"error": {"message": 5}}'), (404, JSON, '{"detail": "Not Found"}'), (400, JSON, "[]"), (301, HTML, ""),
    (404, JSON, "[" * 100_000), (200, EVENTS, "hello\n\n"), (200, EVENTS, "data: []\nid: 1\n\n"),
    (200, EVENTS, 'data: {"text": 5}\nid: 1\n\n'), (200, EVENTS, 'data: {"choices": [{"text": "a"}]}\n\ndata: [DONE]\n\n'),
    (200, EVENTS, 'event: done\ndata: {}\nid: 1\n\n'), (200, EVENTS, 'event: error\ndata: {"error": "text"}\nid: 1\n\n'),
    (200, EVENTS, 'event: done\ndata: {"usage": 1, "timings": []}\nid: 1\n\n'),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("status", "kind", "body"), OTHERS)
def test_another_kind_of_server_is_told_in_one_line(status: int, kind: str, body: str) -> None:
    with other_server(status, kind, body) as address:
        done = generate("a", "--stop", "b", "--url", address)
    assert (done.returncode, done.stdout.strip()) == (1, "")
    assert done.stderr.strip() == f"python -m service generate: error: {address}: not a Folio server"
