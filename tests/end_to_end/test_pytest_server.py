"""The server behind the fixture `folio` ends with the process that started it."""

import subprocess
import sys

import httpx

from folio_pytest import STARTED
from tests.end_to_end.processes import ROOT


def test_it_serves_until_its_standard_input_is_closed() -> None:
    command = [sys.executable, "-m", "service.pytest_server", "--seed", "5"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith(STARTED)
        body = {"start_string": "ROMEO:", "num_generate": 5}
        first, second = (httpx.post(f"{line.split()[-1]}/generate", json=body, timeout=60).json() for _ in range(2))
        assert first["seed"] == second["seed"] == 5
        process.stdin.close()  # as it is when the tests' process is killed
        assert process.wait(timeout=60) == 0
