"""Builds the kernel, once for each instruction set, into one library: python -m service.generation.kernel.build [FOLDER].

The compiler is `cc` where there is one, else that of the package `ziglang`. A library's name holds a digest of its sources, so one
that is out of date is not found.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("network.h", "network.c", "step.c")
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-psabi")  # nothing is to be fused
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
INSTRUCTIONS = {
    "x86_64": {
        "amx": (*AVX512, "-mamx-tile", "-mamx-int8"),
        "vnni": AVX512,
        "avxvnni": ("-mavx2", "-mavxvnni"),
        "avx2": ("-mavx2",),
        "portable": (),
    },
    "aarch64": {"dotprod": ("-mcpu=generic+dotprod",), "portable": ()},
}
"""Each instruction set's flags. The code of `portable` runs on any machine."""


class NoCompiler(Exception):
    """There is no C compiler, or it failed; the message says which."""


def find_or_build() -> Path:
    """The library for these sources, built now if there is none. Raises NoCompiler."""
    places = [HERE, Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "folio"]
    for place in places:
        if (place / file_name()).exists():
            return place / file_name()
    return build(next((place for place in places if _is_writable(place)), Path(tempfile.mkdtemp(prefix="folio-"))))


def file_name(machine: str | None = None) -> str:
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in (*SOURCES, "build.py")))
    return f"libfolio-{machine or _machine()}-{digest.hexdigest()[:12]}.so"


def build(folder: Path, compiler: Sequence[str] | None = None, machine: str | None = None, flags: Sequence[str] = ()) -> Path:
    """Builds the library into `folder`: whole or not at all. flags: added to all others. Raises NoCompiler."""
    machine, compiler = machine or _machine(), compiler or find_compiler()
    sets: dict[str, tuple[str, ...]] = INSTRUCTIONS.get(machine, {"portable": ()})
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = {name: Path(scratch) / f"{name}.o" for name in (*sets, "network")}

        def compile_one(name: str) -> None:
            source = "network.c" if name == "network" else "step.c"
            own = () if name == "network" else (*sets[name], f"-DINSTRUCTIONS={name}")
            _run([*compiler, *FLAGS, *flags, *own, "-c", str(HERE / source), "-o", str(objects[name])])

        list(pool.map(compile_one, objects))
        library = Path(scratch) / "library"
        _run([*compiler, *flags, "-shared", *map(str, objects.values()), "-lpthread", "-o", str(library)])
        return library.replace(folder / file_name(machine))


def find_compiler() -> list[str]:
    """The command of a C compiler. Raises NoCompiler."""
    if found := os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"):
        return found.split()
    if find_spec("ziglang"):
        # Without a target it would compile for this very processor.
        system = {"linux": "linux-gnu.2.17", "darwin": "macos"}.get(sys.platform, sys.platform)
        return [sys.executable, "-m", "ziglang", "cc", "-target", f"{_machine()}-{system}"]
    raise NoCompiler("there is no C compiler: neither cc nor the package ziglang")


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a compiler
    if done.returncode:
        raise NoCompiler(f"{command[0]} failed: {done.stderr.strip()[-1000:]}")


def _machine() -> str:
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    print(build(Path(sys.argv[1])) if sys.argv[1:] else find_or_build())
