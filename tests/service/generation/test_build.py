"""The kernel's library: built by whatever compiler there is, for other systems, and with the same bits on another processor."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from service.generation.kernel import build as building
from service.generation.kernel.build import (
    FLAGS,
    HERE,
    INSTRUCTIONS,
    SCAN_INSTRUCTIONS,
    NoCompiler,
    build,
    build_by_any,
    compilers,
    file_name,
    find_or_build,
    zig,
)
from service.generation.native import Library
from tests.service.generation.exact_calls import check_call, network

DRIVER = Path(__file__).with_name("driver.c")
AARCH64 = Path("/usr/aarch64-linux-gnu")
"""Debian's C library for that processor."""
FAILING = [sys.executable, "-c", "raise SystemExit('it does not work')"]


@pytest.fixture
def package() -> Path:
    found = find_spec("ziglang")
    if found is None or not found.submodule_search_locations:
        pytest.skip("no package ziglang here, which `make setup` installs")
    return Path(found.submodule_search_locations[0])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home; the compiler's cache has no other place."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CACHE_HOME", "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return home


def test_without_a_compiler_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(building, "find_spec", lambda _: None)
    assert compilers() == []
    with pytest.raises(NoCompiler, match="neither cc nor the package ziglang"):
        build_by_any(compilers())


@pytest.mark.parametrize("compiler", [FAILING, ["/no/such/compiler"]])
def test_a_compiler_that_fails_leaves_nothing(compiler: list[str], tmp_path: Path) -> None:
    with pytest.raises(NoCompiler, match="failed"):
        build(tmp_path, compiler)
    assert list(tmp_path.iterdir()) == [], "whole or not at all"


def test_a_user_without_a_home_has_the_library_beside_its_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert building._places() == [building.HERE]


def test_the_compiler_that_the_user_names_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "ccache gcc-14")
    assert compilers() == [["ccache", "gcc-14"]]


def test_the_next_compiler_is_tried_where_one_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(building, "_places", lambda: [tmp_path])
    stand_in = [sys.executable, "-c", "import sys; open(sys.argv[sys.argv.index('-o') + 1], 'x')"]
    assert build_by_any([FAILING, stand_in]) == (tmp_path / file_name(), stand_in)
    assert find_or_build() == tmp_path / file_name(), "it is not built again"


@pytest.mark.slow
def test_zigs_library_gives_the_same_bits_and_leaves_no_cache(package: Path, home: Path, tmp_path: Path) -> None:
    library = Library(build(tmp_path, zig(package)))
    n = network("gru", 2, 40, 60)
    for instructions in library.instructions:
        check_call(n, library.open(n, 20, 2, instructions), 20, 5, 2)
    assert "portable" in library.instructions
    assert list(home.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "start"),
    [
        ("aarch64-linux-gnu", b"\x7fELF\x02\x01\x01" + bytes(9) + b"\3\0\xb7\0"),  # a shared object for machine 183, AArch64
        ("aarch64-macos", b"\xcf\xfa\xed\xfe\x0c\0\0\1"),  # Mach-O of 64 bits for CPU 0x0100000c, arm64
        ("x86_64-macos", b"\xcf\xfa\xed\xfe\x07\0\0\1"),  # the same for CPU 0x01000007, x86-64
    ],
)
def test_it_compiles_for_other_systems(package: Path, tmp_path: Path, target: str, start: bytes) -> None:
    machine = target.partition("-")[0]
    library = build(tmp_path, zig(package, target), machine).read_bytes()
    assert library.startswith(start)
    assert all(f"folio_{instructions}".encode() in library for instructions in INSTRUCTIONS[machine])
    scans = SCAN_INSTRUCTIONS.get(machine, {"portable": ()})
    assert all(f"folio_scan_{instructions}".encode() in library for instructions in scans)


def run_driver(folder: Path, link: list[str], command: list[str]) -> dict[str, dict[str, str]]:
    """What the driver says: {network: {"instruction set, threads": digest}}."""
    program = folder / "driver"
    compile_driver([*link, f"-Wl,-rpath,{folder}", "-o", str(program)], folder)
    said = subprocess.run([*command, str(program)], capture_output=True, text=True, check=True, timeout=300).stdout
    digests: dict[str, dict[str, str]] = {}
    for name, threads, instructions, digest in (line.split() for line in said.splitlines()):
        digests.setdefault(name, {})[f"{instructions}, {threads}"] = digest
    return digests


def compile_driver(command: list[str], folder: Path) -> None:
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(folder), "ZIG_LOCAL_CACHE_DIR": str(folder)}
    subprocess.run(command, env=os.environ | caches, check=True)


@pytest.mark.slow
def test_another_processor_computes_the_same_bits(package: Path, tmp_path: Path) -> None:
    """The driver with this machine's library, and with AArch64's on an emulator with dot product instructions and without."""
    start, libc = AARCH64 / "lib" / "Scrt1.o", AARCH64 / "lib" / "libc.so.6"
    if shutil.which("qemu-aarch64") is None or not start.exists():
        pytest.skip("no qemu-aarch64 here, or no C library for it (Debian's qemu-user and libc6-dev-arm64-cross)")
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    driver = [*FLAGS, "-I", str(HERE), str(DRIVER)]
    compiler = compilers()[0]
    found = [run_driver(here, [*compiler, *driver, str(build(here, compiler)), "-lpthread"], [])]

    compiler = zig(package, "aarch64-linux-gnu")
    compiled = there / "driver.o"
    compile_driver([*compiler, *driver, "-c", "-o", str(compiled)], there)
    link = [*compiler, "-nostdlib", str(start), str(compiled), str(build(there, compiler, "aarch64")), str(libc)]
    emulator = ["qemu-aarch64", "-L", str(AARCH64), "-cpu"]
    found += [run_driver(there, link, [*emulator, processor]) for processor in ("max", "cortex-a53")]

    sets = [{name for digests in one.values() for name in digests} for one in found]
    assert sets[1] == {"dotprod, 1", "dotprod, 2", "portable, 1", "portable, 2"}
    assert sets[2] == {"portable, 1", "portable, 2"}, "it would stop at an instruction that it lacks"
    for name, digests in found[0].items():
        assert {digest for one in found for digest in one[name].values()} == {digests["portable, 1"]}, name


def test_a_cache_that_cannot_be_read_holds_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreadable(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(building, "_places", lambda: [tmp_path])
    monkeypatch.setattr(Path, "stat", unreadable)
    assert building.find() is None
