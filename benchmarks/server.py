"""A server in a process of its own: started, waited for, its processor time and memory read, stopped."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port

ROOT = Path(__file__).parents[1]
PATIENCE = 180  # seconds that a server has to become ready


class ServerFailed(Exception):
    """It ended, or did not become ready; the message has the end of its log."""


@dataclass(frozen=True)
class Server:
    """A server that is ready. Of the memory and the time of all its processes."""

    port: int
    pid: int
    start_seconds: float  # from starting the process to being ready

    def cpu_seconds(self) -> float | None:
        """Processor time used so far; None where /proc can't say."""
        return _sum(_cpu_seconds(pid) for pid in _family(self.pid))

    def memory(self) -> float | None:
        """Resident now, in MB; pages that processes share count for each."""
        return _sum(_status(pid, "VmRSS") for pid in _family(self.pid))

    def peak_memory(self) -> float | None:
        """The most that was resident, in MB, since `forget_peak`: each process's own peak, added up."""
        return _sum(_status(pid, "VmHWM") for pid in _family(self.pid))

    def forget_peak(self) -> None:
        for pid in _family(self.pid):
            try:
                Path(f"/proc/{pid}/clear_refs").write_text("5")
            except OSError:
                continue  # it has ended, or this system has no such thing


@contextmanager
def running(module: str, flags: Sequence[object], ready_path: str, cores: Collection[int] = ()) -> Iterator[Server]:
    """`python -m module --port <a free one> flags`, until `ready_path` answers 200; on those cores alone, if any are named (Linux).

    Raises ServerFailed.
    """
    port = free_port()
    command = [sys.executable, "-m", module, "--port", str(port), *map(str, flags)]
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        # A session of its own: its processes can be stopped together.
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        if cores:
            os.sched_setaffinity(process.pid, cores)  # before it has begun to import, so for all its threads
        try:
            while not _ready(port, ready_path):
                if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                    log.seek(0)
                    raise ServerFailed(f"{module} did not become ready:\n{log.read().decode(errors='replace')[-3000:]}")
                time.sleep(0.01)
            yield Server(port, process.pid, time.perf_counter() - start)
        finally:
            _stop(process)


def _ready(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        print(f"{process.args!r} did not stop when told to, and is killed", file=sys.stderr)
    try:
        os.killpg(process.pid, signal.SIGKILL)  # what is left of its session
    except ProcessLookupError:
        return
    process.wait()


def _family(pid: int) -> list[int]:
    """A process and all that come from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(_stat(int(stat.parent.name))[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    family = [pid]
    for member in family:
        family += children.get(member, [])
    return family


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third, the state, on: a name before it may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_seconds(pid: int) -> float | None:
    try:
        fields = _stat(pid)
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _status(pid: int, field: str) -> float | None:
    """A field of /proc/<pid>/status that is in kB, as MB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{field}:")), None)


def _sum(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
