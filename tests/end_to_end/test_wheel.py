"""The packages that users install: built twice, checked, installed in empty environments, and served from an empty folder.

What needs a package registry is skipped where none can be reached, but not in the gate (FOLIO_GATE), which proves it.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.generation.kernel.build import file_name, machine_name
from tests.end_to_end.processes import ROOT, ready
from tests.ports import free_port
from tests.support import wait_until

PLATFORM = f"manylinux_2_17_{machine_name()}" if sys.platform == "linux" else f"macosx_11_0_{platform.machine()}"
OTHERS = {
    "manylinux_2_17_aarch64": b"\x7fELF\x02\x01\x01" + bytes(9) + b"\3\0\xb7\0",  # a shared object for machine 183, AArch64
    "macosx_11_0_arm64": b"\xcf\xfa\xed\xfe\x0c\0\0\1",  # Mach-O of 64 bits for CPU 0x0100000c, arm64
}
OLDEST_GLIBC = (2, 17)
EXAMPLE = ROOT / "examples" / "pytest_project"


def python(*arguments: object, folder: Path, interpreter: str = sys.executable, **variables: str) -> str:
    command = [interpreter, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=clean() | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PATIENT = {"PIP_DEFAULT_TIMEOUT": "120", "PIP_RETRIES": "10", "UV_HTTP_TIMEOUT": "300"}  # a registry may be slow for a while


def clean() -> dict[str, str]:
    """The environment without what could make up for something that a package lacks."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SERVICE_", "PYTHON", "FOLIO_", "XDG_"))}
    return kept | PATIENT


def build(source: Path, folder: Path, zig_cache: Path, target: str = PLATFORM) -> list[Path]:
    """[the wheel, the sdist], built from a clone or from an unpacked sdist."""
    python("-m", "hatchling", "build", "-d", folder, folder=source, FOLIO_WHEEL=target, ZIG_GLOBAL_CACHE_DIR=str(zig_cache))
    return sorted(folder.iterdir(), key=lambda path: path.suffix != ".whl")


@pytest.fixture(scope="session")
def zig_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the C library that zig builds for each target."""
    return tmp_path_factory.mktemp("zig")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, zig_cache: Path) -> list[Path]:
    return build(ROOT, tmp_path_factory.mktemp("dist"), zig_cache)


@pytest.fixture(scope="session")
def wheel(built: list[Path]) -> Path:
    return built[0]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh virtual environment with the newest pip, which shows that a registry can be reached."""
    folder = tmp_path_factory.mktemp("environment")
    python("-m", "venv", folder, folder=folder)
    programs = folder / "bin"
    command = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--upgrade", "pip"]
    done = subprocess.run(command, env=clean(), capture_output=True, text=True, check=False)
    if done.returncode and "FOLIO_GATE" not in os.environ:
        pytest.skip(f"no package registry: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return programs


@contextmanager
def served(command: list[str], tmp_path: Path, **variables: str) -> Iterator[httpx.Client]:
    """A client of `folio serve`, which runs in an empty folder with an empty home. Its log has to name the included model."""
    here, home, log, port = tmp_path / "here", tmp_path / "home", tmp_path / "log", free_port()
    here.mkdir()
    home.mkdir()
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            [*command, "serve", "--port", str(port)], cwd=here, env=clean() | {"HOME": str(home)} | variables, stderr=stderr
        ) as process,
    ):
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                wait_until(lambda: ready(process, client), seconds=300)
                yield client
        finally:
            process.terminate()
    assert "serving the included model" in log.read_text()
    assert not list(here.iterdir())
    assert not (home / ".cache" / "folio").exists(), "the library was in the wheel, so none was built"


def check_answers(client: httpx.Client) -> None:
    answer = client.post("/generate", json={"start_string": "ROMEO:", "num_generate": 50, "seed": 6}).json()
    assert answer["model"] == "shakespeare"
    assert len(answer["text"]) == len("ROMEO:") + 50
    assert client.get("/models/shakespeare").json()["engine"] == "native"
    page = client.get("/")
    assert "Folio" in page.text
    assert all(client.get(path).status_code == 200 for path in re.findall(r'(?:src|href)="(/?web/[^"]+)"', page.text))


def test_two_builds_have_the_same_bytes_one_from_the_clone_and_one_from_its_sdist(
    built: list[Path], tmp_path: Path, zig_cache: Path
) -> None:
    wheel, sdist = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    again = build(source, tmp_path / "again", zig_cache)
    assert [path.name for path in again] == [path.name for path in built]
    assert again[0].read_bytes() == wheel.read_bytes()
    assert again[1].read_bytes() == sdist.read_bytes()


def test_the_packages_are_in_order(built: list[Path], tmp_path: Path) -> None:
    python("-m", "twine", "check", "--strict", *built, folder=tmp_path)
    python("-m", "check_wheel_contents", built[0], folder=ROOT)


def test_the_wheel_is_small_and_holds_all_that_serving_needs(wheel: Path) -> None:
    assert wheel.stat().st_size < 25_000_000
    assert wheel.name.endswith(f"-py3-none-{PLATFORM}.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        library = archive.read(f"service/generation/kernel/{file_name()}")
    assert {f"service/web/{path.name}" for path in (ROOT / "service" / "web").iterdir()} <= {*names}
    shipped = (ROOT / "models" / "shakespeare").glob("[0-9]*/*")
    assert {f"service/{path.relative_to(ROOT)}" for path in shipped} <= {*names}
    check_glibc(library)


def check_glibc(library: bytes) -> None:
    """The platform in the wheel's name promises the oldest glibc that it works with."""
    needed = {(int(major), int(minor)) for major, minor in re.findall(rb"GLIBC_(\d+)\.(\d+)", library)}
    assert needed or sys.platform != "linux"
    assert max(needed, default=OLDEST_GLIBC) <= OLDEST_GLIBC


@pytest.mark.parametrize("target", OTHERS)
def test_it_builds_wheels_for_other_platforms(target: str, tmp_path: Path, zig_cache: Path) -> None:
    wheel, _ = build(ROOT, tmp_path, zig_cache, target)
    assert wheel.name.endswith(f"-py3-none-{target}.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        library = archive.read(name)
    assert library.startswith(OTHERS[target])
    assert str(tmp_path).encode() not in library
    assert b"/folio-wheel-" not in library
    if "linux" in target:
        check_glibc(library)


def test_pip_installs_it_it_serves_and_a_projects_tests_use_it(environment: Path, wheel: Path, tmp_path: Path) -> None:
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    interpreter = str(environment / "python")
    python(*pip, wheel, folder=tmp_path, interpreter=interpreter)
    with served([str(environment / "folio")], tmp_path) as client:
        check_answers(client)
    done = subprocess.run([environment / "folio", "train"], env=clean(), capture_output=True, text=True, check=False)
    assert (done.returncode, "pip install 'folio-rnn[trainer]'" in done.stderr) == (2, True)

    python(*pip, "pytest", "openai", folder=tmp_path, interpreter=interpreter)
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE, project)
    (project / "service").mkdir()
    (project / "service" / "__init__.py").write_text("raise RuntimeError('a package of the project')")
    for program in ([environment / "pytest"], [interpreter, "-m", "pytest"]):
        done = subprocess.run(program, cwd=project, env=clean(), capture_output=True, text=True, check=False)
        assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert not list(started_by(environment)), "the fixture's server is gone"
    flags = ("-m", "pytest", "-p", "no:cacheprovider", "-o", "folio_flags=--nonsense")
    done = subprocess.run([interpreter, *flags], cwd=EXAMPLE, env=clean(), capture_output=True, text=True, check=False)
    assert "the Folio server did not start" in done.stdout
    assert "--nonsense" in done.stdout


def started_by(programs: Path) -> Iterator[str]:
    """The command lines of processes that run a program of the folder. None where there is no /proc."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if line.startswith(str(programs)):
            yield line


@pytest.mark.usefixtures("environment")  # a registry can be reached
def test_uvx_installs_it_and_it_serves(wheel: Path, tmp_path: Path) -> None:
    folio = [str(Path(sys.executable).with_name("uvx")), "--python", sys.executable, "--from", str(wheel), "folio"]
    cache = {"UV_CACHE_DIR": str(tmp_path / "cache")}
    # Installs it, which may take long. Then only the start has a limit.
    subprocess.run([*folio, "--help"], cwd=tmp_path, env=clean() | cache, capture_output=True, check=True)
    with served(folio, tmp_path, **cache) as client:
        check_answers(client)
