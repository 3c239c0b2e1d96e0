"""The programs of docs/stand-in.md work as they are written there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.processes import ROOT, Server, service

PAGE = (ROOT / "docs" / "stand-in.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def stand_in() -> Iterator[Server]:
    with service("--auto-tools", "call", "--any-model", "--seed", 1) as server:
        yield server


def run(program: str, server: Server, folder: Path) -> str:
    file = folder / "program.py"
    file.write_text(program.replace("http://127.0.0.1:8000", server.url))
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_page_has_programs() -> None:
    assert len(PROGRAMS) >= 8


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.split()[1].partition(".")[0])
def test_a_program_works(program: str, stand_in: Server, tmp_path: Path) -> None:
    assert run(program, stand_in, tmp_path)


def test_a_loop_with_a_tool_prints_the_same_twice(stand_in: Server, tmp_path: Path) -> None:
    assert run(PROGRAMS[0], stand_in, tmp_path) == run(PROGRAMS[0], stand_in, tmp_path)
