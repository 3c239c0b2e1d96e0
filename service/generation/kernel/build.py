"""Builds the kernel, once for each instruction set, into one library: python -m service.generation.kernel.build.

Any C compiler will do. Where none works, `--else-download requirements/compiler.txt` gets one, the package `ziglang`, for this
build alone. A library's name holds a digest of its sources, so one that is out of date is not found.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
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
    "aarch64": {"dotprod": ("-march=armv8.2-a+dotprod",), "portable": ()},
}
"""Each instruction set's flags. The code of `portable` runs on any machine."""
OF_ZIG = {"-march=armv8.2-a+dotprod": "-mcpu=generic+v8_2a+dotprod"}
"""What zig calls a flag that it has under another name."""


class NoCompiler(Exception):
    """There is no C compiler, or it failed; the message says which."""


def find_or_build() -> Path:
    """The library for these sources, built now if there is none. Raises NoCompiler."""
    return find() or build_by_any(compilers())[0]


def find() -> Path | None:
    return next((place / file_name() for place in _places() if (place / file_name()).exists()), None)


def file_name(machine: str | None = None) -> str:
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in (*SOURCES, "build.py")))
    return f"libfolio-{machine or machine_name()}-{digest.hexdigest()[:12]}.so"


def compilers() -> list[list[str]]:
    """The commands of the C compilers here, the preferred one first: $CC alone where it is set."""
    if chosen := os.environ.get("CC"):
        return [chosen.split()]
    found = [[path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    if sys.platform == "darwin" and subprocess.run(["/usr/bin/xcode-select", "-p"], capture_output=True, check=False).returncode:
        found = []  # without Apple's tools, `cc` opens a window that offers to install them
    package = find_spec("ziglang")
    return found + [zig(Path(folder)) for folder in (package and package.submodule_search_locations) or ()]


def zig(package: Path, target: str | None = None) -> list[str]:
    """The command of zig's C compiler, from the folder of the package ziglang. target: this machine, unless given."""
    systems = {"linux": "linux-gnu" if platform.libc_ver()[0] == "glibc" else "linux-musl", "darwin": "macos"}
    # Without a target it would compile for this very processor.
    return [str(package / "zig"), "cc", "-target", target or f"{machine_name()}-{systems.get(sys.platform, sys.platform)}"]


def build_by_any(candidates: Iterable[Sequence[str]]) -> tuple[Path, Sequence[str]]:
    """(The library, its compiler): the first that succeeds, in the first folder that can be written. Raises NoCompiler."""
    folder = next((place for place in _places() if _is_writable(place)), None) or Path(tempfile.mkdtemp(prefix="folio-"))
    failures = []
    for compiler in candidates:
        try:
            return build(folder, compiler), compiler
        except NoCompiler as error:
            failures.append(str(error))
    raise NoCompiler("; ".join(failures) or "there is no C compiler: neither cc nor the package ziglang")


def build(folder: Path, compiler: Sequence[str], machine: str | None = None, flags: Sequence[str] = ()) -> Path:
    """Builds the library into `folder`: whole or not at all. flags: added to all others. Raises NoCompiler."""
    machine = machine or machine_name()
    sets: dict[str, tuple[str, ...]] = INSTRUCTIONS.get(machine, {"portable": ()})
    is_zig = Path(compiler[0]).name == "zig"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = {name: Path(scratch) / f"{name}.o" for name in (*sets, "network")}

        def compile_one(name: str) -> None:
            source = "network.c" if name == "network" else "step.c"
            own = () if name == "network" else (*sets[name], f"-DINSTRUCTIONS={name}")
            own = tuple(OF_ZIG.get(flag, flag) for flag in own) if is_zig else own
            _run([*compiler, *FLAGS, *flags, *own, "-c", str(HERE / source), "-o", str(objects[name])], scratch)

        list(pool.map(compile_one, objects))
        library = Path(scratch) / "library"
        libraries = _libraries_for_zig(machine) if is_zig else ["-lpthread"]
        _run([*compiler, *flags, "-shared", *map(str, objects.values()), *libraries, "-o", str(library)], scratch)
        return library.replace(folder / file_name(machine))


def _libraries_for_zig(machine: str) -> list[str]:
    """Links with this process's C library: zig would build one, for most of a minute of processor time.

    Linked with none, as for another machine, the library takes what its process has. Of a function that glibc has in several
    versions that is the oldest: condition variables of 2001.
    """
    if sys.platform != "linux" or machine != machine_name():
        return ["-nostdlib"]
    loaded = _loaded_libc()
    return ["-nostdlib", *loaded] if loaded else []


def _loaded_libc() -> list[str]:
    maps = Path("/proc/self/maps")
    paths = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines()} if maps.exists() else set()
    return sorted(path for path in paths if re.match(r"(libc|libpthread|ld-musl)[-.]", Path(path).name))


def _run(command: Sequence[str], scratch: str) -> None:
    caches = {"ZIG_GLOBAL_CACHE_DIR": scratch, "ZIG_LOCAL_CACHE_DIR": scratch}  # zig's would stay in the user's home
    try:
        done = subprocess.run(command, env=os.environ | caches, capture_output=True, text=True, check=False)  # noqa: S603 - a compiler
    except OSError as error:
        raise NoCompiler(f"{command[0]} failed: {error}") from error
    if done.returncode:
        raise NoCompiler(f"{command[0]} failed with code {done.returncode}: {done.stderr.strip()[-1000:]}".removesuffix(": "))


def machine_name() -> str:
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())


def _places() -> list[Path]:
    return [HERE, Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "folio"]


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _build_by_downloading(lock: Path) -> tuple[Path, Sequence[str]]:
    with tempfile.TemporaryDirectory(prefix="folio-compiler-") as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        _run([*pip, "--dest", folder, "-r", str(lock)], folder)
        (wheel,) = Path(folder).glob("*.whl")
        # What C needs of the package. To unpack its other 16,000 files would take longer than the build.
        headers = rf"any-(linux|darwin)|generic-(glibc|musl)|{machine_name()[:3]}"
        needed = re.compile(rf"ziglang/(zig$|lib/(std/std\.zig$|include/|libc/(darwin/|include/({headers}))))")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if needed.match(name)])
        compiler = zig(Path(folder) / "ziglang")
        Path(compiler[0]).chmod(0o755)
        return build_by_any([compiler])


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds the kernel's library beside its sources.")
    parser.add_argument("--else-download", type=Path, metavar="LOCK", help="download a compiler for this build where none works")
    lock, start = parser.parse_args().else_download, time.monotonic()
    if found := find():
        print(f"The kernel is built already: {found}")
        return 0
    try:
        try:
            library, compiler = build_by_any(compilers())
        except NoCompiler as error:
            if lock is None:
                raise
            print(f"Downloading a compiler, 100 MB, which is removed when the kernel is built: {error}", flush=True)
            library, compiler = _build_by_downloading(lock)
    except NoCompiler as error:
        print(f"The kernel is not built, so the service takes the slower NumPy step (reference): {error}", file=sys.stderr)
        return 1
    print(f"Built the kernel with {compiler[0]} in {time.monotonic() - start:.0f} s: {library}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
