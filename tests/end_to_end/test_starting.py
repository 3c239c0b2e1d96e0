"""A server that is stopped while it starts, and one whose address is taken: one line, an exit code, and never an abort."""

import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.processes import ROOT, reads_proc
from tests.ports import free_ports
from tests.support import wait_until

HANDLES = 1 << (signal.SIGTERM - 1)  # in the mask of /proc; the interpreter itself handles SIGINT only


def start(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "service", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def handles_signals(process: "subprocess.Popen[str]") -> bool:
    assert process.poll() is None
    status = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) & HANDLES)


# One for all polls: to make a client takes longer than to ask.
CLIENT = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))


def answers(port: int, path: str) -> bool:
    return succeeds(CLIENT, f"http://127.0.0.1:{port}{path}")


def succeeds(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == 200
    except httpx.TransportError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


POINTS: list[Callable[[int], object]] = [
    lambda _port: None,
    lambda port: wait_until(lambda: listens(port)),
    lambda port: wait_until(lambda: answers(port, "/healthz")),
    lambda port: wait_until(lambda: answers(port, "/readyz")),
]


def in_parallel(check: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
    """Three checks at a time: one process that starts keeps one core busy."""
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda one: check(*one), arguments))


def check_said(said: str, most: int) -> None:
    for sign in ("Traceback", "terminate called", "Fatal", "Error"):
        assert sign not in said, said
    assert len(said.strip().splitlines()) <= most, said


@reads_proc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_point_of_the_start_is_an_orderly_end(number: signal.Signals) -> None:
    """At four states that can be seen from outside, and at some moment after each: within imports, or the compiling of a model."""

    def check(reached: Callable[[int], object], seconds: float, port: int) -> None:
        with start("--port", port, "--shutdown-delay", 0, "--log-format", "plain") as process:
            wait_until(lambda: handles_signals(process))
            reached(port)
            time.sleep(seconds)
            process.send_signal(number)
            said = process.communicate(timeout=60)[1]
        assert process.returncode == 0, said
        check_said(said, most=20)

    rng = random.Random(number)
    moments = [(reached, rng.uniform(0, longest)) for reached in POINTS for longest in (0, 0.3, 1.5)]
    in_parallel(check, ((*moment, port) for moment, port in zip(moments, free_ports(len(moments)), strict=True)))


@reads_proc
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 1), (signal.SIGINT, 130)])
def test_a_signal_ends_generate_at_any_point(number: signal.Signals, code: int) -> None:

    def check(seconds: float) -> None:
        with start("generate", "ROMEO: ", "--models-dir", "models", "--num-generate", 100_000, "--pace", 10) as process:
            wait_until(lambda: handles_signals(process))
            time.sleep(seconds)
            process.send_signal(number)
            said = process.communicate(timeout=60)[1]
        assert process.returncode == code, said
        check_said(said, most=1)

    rng = random.Random(number)
    in_parallel(check, [(rng.uniform(0, longest),) for longest in (0, 0.5, 1, 1.5, 2, 3)])
    with start("generate", "ROMEO: ", "--models-dir", "models", "--num-generate", 100_000, "--pace", 10) as process:
        assert process.stdout is not None
        assert process.stdout.read(8).startswith("ROMEO: ")
        process.send_signal(number)
        assert process.wait(timeout=60) == code


def test_a_taken_address_is_one_line_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, start("--port", taken.getsockname()[1]) as process:
        said = process.communicate(timeout=60)[1]
        expected = f"python -m service: error: cannot listen on 127.0.0.1:{taken.getsockname()[1]}: address already in use\n"
    assert (process.returncode, said) == (1, expected)
    with start("--uds", tmp_path / "absent" / "folio.sock") as process:
        said = process.communicate(timeout=60)[1]
    assert (process.returncode, said.count("\n"), "no such file or directory" in said) == (1, 1, True)


@reads_proc
def test_a_unix_socket_is_removed_when_the_server_is_told_to_stop(tmp_path: Path) -> None:
    file = tmp_path / "folio.sock"
    for ready in (False, True):
        with start("--uds", file, "--shutdown-delay", 0, "--log-format", "plain") as process:
            wait_until(file.exists)
            if ready:
                with httpx.Client(transport=httpx.HTTPTransport(uds=str(file)), timeout=60) as client:
                    wait_until(lambda: succeeds(client, "http://folio/readyz"))
            process.terminate()
            said = process.communicate(timeout=60)[1]
        assert (process.returncode, file.exists()) == (0, False), said


def test_a_unix_socket_is_removed_though_the_signal_comes_while_it_is_made(tmp_path: Path) -> None:
    file = tmp_path / "folio.sock"
    code = """
import os, signal, sys
from pathlib import Path
from service.__main__ import main

def killed(self, mode, chmod=Path.chmod):
    os.kill(os.getpid(), signal.SIGTERM)
    chmod(self, mode)

Path.chmod = killed
sys.exit(main(["--uds", sys.argv[1]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, file.exists()) == (0, False), done.stderr
    assert "stopped by SIGTERM" in done.stderr
