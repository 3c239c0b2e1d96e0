"""python -m service generate, as a process: with a server and without, and when things go wrong."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
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
def test_what_is_wrong_is_said(client: httpx.Client, tmp_path: Path) -> None:
    for arguments, message in (
        (["a1", "--url", client.base_url], "'1' at position 1"),
        (["a", "--url", client.base_url, "--temperature", "-1"], "temperature"),
        (["a", "--models-dir", tmp_path], "no published version"),
        (["a", "--models-dir", tmp_path / "being loaded"], "being loaded: No such file"),
        (["a", "--url", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["a", "--url", "http://[::1"], "http://[::1"),
        (["a", "--url", f"{client.base_url}/absent"], "Not Found"),
        (["a", "--temperature", "nan"], "finite"),
        (["a\udcff"], "UTF-8"),
    ):
        done = generate(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_neither_a_proxy_nor_a_narrow_terminal_nor_a_wrong_variable_is_in_the_way(models: Path) -> None:
    options = ["--models-dir", models, "--num-generate", 20]
    assert generate("a", *options, HTTP_PROXY="http://127.0.0.1:9").returncode == 0
    assert generate("é語", *options, PYTHONIOENCODING="ascii").stdout.startswith("\\xe9\\u8a9e")
    done = generate("a", *options, SERVICE_PORT="99999999")
    assert (done.returncode, "SERVICE_PORT" in done.stderr, "Traceback" in done.stderr) == (1, True, False)


@pytest.mark.slow
def test_a_stream_that_is_cut_is_gone_on_with(client: httpx.Client) -> None:
    """A proxy lets so many bytes through and cuts, three times; then it lets all through."""
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
    assert next(budget, None) is None, "the stream was cut three times"


@pytest.mark.slow
def test_a_key_comes_from_its_variable_and_a_servers_own_settings_are_not_in_the_way(models: Path) -> None:
    key = "correct-horse-battery"
    with serving(Settings.model_validate({"models_dir": models, "api_keys": key})) as (_, client):
        ask = ("a", "--num-generate", 5, "--url", client.base_url)
        assert generate(*ask, FOLIO_API_KEY=key).returncode == 0
        for variables in ({}, {"FOLIO_API_KEY": "another"}):
            done = generate(*ask, **variables)
            assert (done.returncode, done.stdout) == (1, "")
            assert "API key" in done.stderr
            assert "the variable FOLIO_API_KEY" in done.stderr
    alone = generate("a", "--num-generate", 5, "--models-dir", models, SERVICE_API_KEYS=key, SERVICE_RATE_LIMIT="1/hour")
    assert alone.returncode == 0, alone.stderr
