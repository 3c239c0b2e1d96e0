"""Compiles the kernel for each instruction set and links one library: python -m service.generation.kernel.build.

GCC 11, clang 12 and later ones work. If there is none, `--else-download requirements/compiler.txt` downloads the package `ziglang`
for this build only. A library's name contains a digest of its sources, so an outdated library is not found.
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
SOURCES = ("processor.h", "network.h", "network.c", "step.c", "recurrence.h", "tile.h", "recurrence.c", "scan.c")
# No fused multiply-add. No debug information: it names folders of the machine that builds.
FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-O3", "-g0", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-psabi")
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
"""Compiler flags of the step by instruction set. `portable` runs on every machine."""
SCAN_INSTRUCTIONS = {
    "x86_64": {"avx512": (*AVX512[:4], "-mfma"), "fma": ("-mavx2", "-mfma"), "portable": ()},
}
"""Compiler flags of the trainer's scan by instruction set."""
SCAN_FLAGS = ("-ffp-contract=fast",)  # fused operations are faster; only the step must give the same bits everywhere
ZIG_FLAGS = {"-march=armv8.2-a+dotprod": "-mcpu=generic+v8_2a+dotprod"}
"""Flags that have another name in zig."""


class NoCompiler(Exception):
    """There is no C compiler, or all failed. The message gives the reason."""


def find_or_build() -> Path:
    """The library for these sources. Builds it if there is none. Raises NoCompiler."""
    return find() or build_by_any(compilers())[0]


def find() -> Path | None:
    files = (place / file_name() for place in _places())
    return next((file for file in files if os.access(file, os.R_OK)), None)  # `exists` fails in a folder that cannot be read


def file_name(machine: str | None = None) -> str:
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in (*SOURCES, "build.py")))
    return f"libfolio-{machine or machine_name()}-{digest.hexdigest()[:12]}.so"


def compilers() -> list[list[str]]:
    """Commands of the installed C compilers, the preferred one first. Only $CC if it is set."""
    if chosen := os.environ.get("CC"):
        return [chosen.split()]
    found = [[path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    if sys.platform == "darwin" and subprocess.run(["/usr/bin/xcode-select", "-p"], capture_output=True, check=False).returncode:
        found = []  # without Apple's tools, `cc` opens a dialog that offers to install them
    package = find_spec("ziglang")
    return found + [zig(Path(folder)) for folder in (package and package.submodule_search_locations) or ()]


def zig(package: Path, target: str | None = None) -> list[str]:
    """The command of zig's C compiler. package: the folder of the package ziglang. target: a zig target (default: this machine)."""
    systems = {"linux": "linux-gnu" if platform.libc_ver()[0] == "glibc" else "linux-musl", "darwin": "macos"}
    # Without a target, zig compiles for the exact processor of this machine.
    return [str(package / "zig"), "cc", "-target", target or f"{machine_name()}-{systems.get(sys.platform, sys.platform)}"]


def build_by_any(candidates: Iterable[Sequence[str]], folder: Path | None = None) -> tuple[Path, Sequence[str]]:
    """Builds with the first compiler that succeeds: (library, compiler). folder: by default the first writable one of those that
    `find` searches. Raises NoCompiler."""
    folder = folder or next((place for place in _places() if _is_writable(place)), None) or Path(tempfile.mkdtemp(prefix="folio-"))
    failures = []
    for compiler in candidates:
        try:
            return build(folder, compiler), compiler
        except NoCompiler as error:
            failures.append(str(error))
    raise NoCompiler("; ".join(failures) or "there is no C compiler: neither cc nor the package ziglang")


def build(folder: Path, compiler: Sequence[str], machine: str | None = None, flags: Sequence[str] = ()) -> Path:
    """Builds the library in `folder`, completely or not at all. flags: added to all commands. Raises NoCompiler."""
    machine = machine or machine_name()
    is_zig = Path(compiler[0]).name == "zig"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:

        def compile_one(source: str, name: str, own: Sequence[str]) -> Path:
            own = [ZIG_FLAGS.get(flag, flag) for flag in own] if is_zig else own
            compiled = Path(scratch) / f"{source}-{name}.o"
            _run(
                [*compiler, *FLAGS, *flags, *own, f"-DINSTRUCTIONS={name}", "-c", str(HERE / source), "-o", str(compiled)], scratch
            )
            return compiled

        objects = list(pool.map(compile_one, *zip(*_units(machine), strict=True)))
        library = Path(scratch) / "library"
        libraries = _libraries_for_zig(compiler) if is_zig else ["-lpthread"]
        # Without -O3, zig builds its run-time libraries for debugging, which takes half a minute of CPU time.
        _run([*compiler, *flags, "-O3", "-shared", *map(str, objects), *libraries, "-o", str(library)], scratch)
        return library.replace(folder / file_name(machine))


def _units(machine: str) -> Iterable[tuple[str, str, tuple[str, ...]]]:
    """The files to compile: (source, instruction set, flags)."""
    for name, own in INSTRUCTIONS.get(machine, {"portable": ()}).items():
        yield "step.c", name, own
    for name, own in SCAN_INSTRUCTIONS.get(machine, {"portable": ()}).items():
        yield "recurrence.c", name, (*SCAN_FLAGS, *own)
    yield from (("network.c", "none", ()), ("scan.c", "none", ()))


def _libraries_for_zig(compiler: Sequence[str]) -> list[str]:
    """Linker arguments that use this process's C library, because zig takes several seconds to build its own.

    It does build one for a target that names a version, such as x86_64-linux-gnu.2.17. The library then works with that version
    and later ones. For any other target, the library is linked with no C library and resolves symbols at load time. Of a function
    with several versions in glibc it then gets the oldest, such as the condition variables of 2001.
    """
    target = compiler[-1]
    if "macos" in target:
        return ["-nostdlib", "-Wl,-install_name,libfolio"]  # else the library names the folder that it was built in
    if re.search(r"gnu\.[0-9.]+$", target):
        return ["-lpthread"]
    if sys.platform != "linux" or list(compiler) != zig(Path(compiler[0]).parent):
        return ["-nostdlib"]
    maps = Path("/proc/self/maps")
    paths = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines()} if maps.exists() else set()
    loaded = sorted(path for path in paths if re.match(r"(libc|libpthread|ld-musl)[-.]", Path(path).name))
    return ["-nostdlib", *loaded] if loaded else []


def _run(command: Sequence[str], scratch: str) -> None:
    caches = {"ZIG_GLOBAL_CACHE_DIR": scratch, "ZIG_LOCAL_CACHE_DIR": scratch}  # by default they stay in the user's home
    try:
        done = subprocess.run(command, env=caches | os.environ, capture_output=True, text=True, check=False)  # noqa: S603 - a compiler
    except OSError as error:
        raise NoCompiler(f"{command[0]} failed: {error}") from error
    if done.returncode:
        raise NoCompiler(f"{command[0]} failed with code {done.returncode}: {done.stderr.strip()[-1000:]}".removesuffix(": "))


def machine_name() -> str:
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())


def _places() -> list[Path]:
    try:
        return [HERE, Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "folio"]
    except RuntimeError:  # this user has no home
        return [HERE]


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
        # The files that a C build needs. Unpacking the other 16,000 would take longer than the build.
        headers = rf"any-(linux|darwin)|generic-(glibc|musl)|{machine_name()[:3]}"
        needed = re.compile(rf"ziglang/(zig$|lib/(std/std\.zig$|include/|libc/(darwin/|include/({headers}))))")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if needed.match(name)])
        compiler = zig(Path(folder) / "ziglang")
        Path(compiler[0]).chmod(0o755)
        return build_by_any([compiler])


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds the kernel's library next to its sources.")
    parser.add_argument("--else-download", type=Path, metavar="LOCK", help="if no compiler works, download one for this build")
    lock, start = parser.parse_args().else_download, time.monotonic()
    if found := find():
        print(f"The kernel is already built: {found}")
        return 0
    try:
        try:
            library, compiler = build_by_any(compilers())
        except NoCompiler as error:
            if lock is None:
                raise
            print(f"Downloading a compiler (100 MB, removed after the build): {error}", flush=True)
            library, compiler = _build_by_downloading(lock)
    except NoCompiler as error:
        print(f"The kernel is not built, so the service uses the slower NumPy step (reference): {error}", file=sys.stderr)
        return 1
    print(f"Built the kernel with {compiler[0]} in {time.monotonic() - start:.0f} s: {library}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
