"""The Makefile's set-up, with packages made here: it installs exactly the lock, whatever has been released since."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from service.generation.native import Library
from tests.end_to_end.processes import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")

# What `pip install -e .` needs of a project, so that no package has to be fetched for it.
BACKEND = """
import zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    name, info = "sample-1.0-py3-none-any.whl", "sample-1.0.dist-info"
    metadata = ["Metadata-Version: 2.1", "Name: sample", "Version: 1.0", "Requires-Dist: alpha"]
    with zipfile.ZipFile(f"{folder}/{name}", "w") as file:
        file.writestr(f"{info}/METADATA", "\\n".join(metadata))
        file.writestr(f"{info}/WHEEL", "\\n".join(["Wheel-Version: 1.0", "Root-Is-Purelib: true", "Tag: py3-none-any"]))
        file.writestr(f"{info}/RECORD", "")
    return name
"""
KERNEL = Path("service/generation/kernel")
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def wheel(folder: Path, name: str, version: str, *requires: str, files: Iterable[tuple[Path, str]] = ()) -> str:
    """Makes a package of files, each with its name there, or of none; returns its line of a lock."""
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: more\n"]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{info}/METADATA", "".join([*metadata, *(f"Requires-Dist: {required}\n" for required in requires)]))
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
        for path_here, name_there in files:
            file.write(path_here, name_there)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def set_up(folder: Path, lock: str, *more: str, compiler: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """make .venv/serves and `more`. lock, compiler: what is locked for the service, and to build the kernel with."""
    shutil.copy(ROOT / "Makefile", folder)
    products = shutil.ignore_patterns("libfolio-*", ".building-*", "__pycache__")
    shutil.copytree(ROOT / KERNEL, folder / KERNEL, ignore=products, dirs_exist_ok=True)
    (folder / "requirements").mkdir(exist_ok=True)
    for name in ("service", "trainer", "dev"):
        (folder / "requirements" / f"{name}.txt").write_text(lock)
    (folder / "requirements" / "build.txt").write_text("")
    (folder / "requirements" / "compiler.txt").write_text(compiler)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "wheels"), "PIP_CONFIG_FILE": os.devnull}
    command = ["make", ".venv/serves", *more, f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=folder, env=os.environ | offline | environment, capture_output=True, text=True, check=False)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables of a machine that has neither compilers nor anything in its home and its temporary folder."""
    for name in ("CC", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    for name in ("home", "tmp", "programs", "wheels"):
        (tmp_path / name).mkdir()
    for name in ("make", "touch"):
        (tmp_path / "programs" / name).symlink_to(str(shutil.which(name)))
    return {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "PATH": str(tmp_path / "programs")}


SetUp = tuple[Path, "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def set_ups(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SetUp]:
    """(Folder, what `make` did there) with a lock that is older than the newest releases, and with one that lacks a package."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("older", "lacking")}
    for folder in folders.values():
        (folder / "wheels").mkdir()
    older, lacking = (folder / "wheels" for folder in folders.values())
    locks = [
        wheel(older, "alpha", "1.0", "beta[more]>=1.0") + wheel(older, "beta", "1.0"),
        wheel(lacking, "alpha", "1.0", "beta>=1.0"),
    ]
    for name in ("alpha", "beta"):
        wheel(older, name, "2.0")
    stale = folders["older"] / ".venv" / "bin" / "python"
    stale.parent.mkdir(parents=True)
    stale.write_text("#!/bin/sh\necho '(3, 14)'\n")
    stale.chmod(0o755)
    (stale.parents[1] / "kept").touch()
    with ThreadPoolExecutor() as pool:
        return {name: (folders[name], done) for name, done in zip(folders, pool.map(set_up, folders.values(), locks), strict=True)}


def test_a_lock_older_than_the_newest_releases_is_installed_as_it_stands(set_ups: dict[str, SetUp]) -> None:
    folder, done = set_ups["older"]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No broken requirements found" in done.stdout
    script = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    listed = subprocess.run([str(folder / ".venv/bin/python"), "-c", script], capture_output=True, text=True, check=True)
    others = ("pip", "setuptools")  # which a virtual environment is made with
    assert {one for one in listed.stdout.split() if one.split("==")[0] not in others} == {"alpha==1.0", "beta==1.0", "sample==1.0"}


def test_an_environment_of_another_python_is_replaced(set_ups: dict[str, SetUp]) -> None:
    folder, done = set_ups["older"]
    assert "replacing .venv" in done.stdout
    assert not (folder / ".venv" / "kept").exists()
    folder, done = set_ups["lacking"]
    assert "replacing .venv" not in done.stdout


def test_a_lock_that_is_not_whole_is_told(set_ups: dict[str, SetUp]) -> None:
    folder, done = set_ups["lacking"]
    assert done.returncode != 0
    assert "alpha 1.0 requires beta, which is not installed" in done.stdout
    assert not (folder / ".venv" / "serves").exists(), "the next `make` tries again"


def test_without_a_compiler_one_is_downloaded_for_the_kernel_alone(tmp_path: Path, bare: dict[str, str]) -> None:
    package = find_spec("ziglang")
    if package is None or not package.submodule_search_locations:
        pytest.skip("no package ziglang here, which `make setup` installs")
    folder = Path(package.submodule_search_locations[0])
    files = [
        folder / "zig",
        folder / "lib/std/std.zig",
        *folder.glob("lib/include/**/*.h"),
        *folder.glob("lib/libc/include/**/*.h"),
    ]
    lock = wheel(tmp_path / "wheels", "ziglang", "1.0", files=((one, f"ziglang/{one.relative_to(folder)}") for one in files))
    service = wheel(tmp_path / "wheels", "alpha", "1.0")
    done = set_up(tmp_path, service, ".venv/kernel", compiler=lock, **bare)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Downloading a compiler" in done.stdout
    (library,) = (tmp_path / KERNEL).glob("libfolio-*")
    assert Library(library).instructions
    assert not any((tmp_path / ".venv").rglob("*zig*"))
    assert not any((tmp_path / "home").rglob("*zig*"))
    assert not any((tmp_path / "tmp").iterdir())
    assert str(library) not in set_up(tmp_path, service, ".venv/kernel", **bare).stdout, "it is not built again"


def test_without_any_way_to_a_compiler_the_rest_is_set_up(tmp_path: Path, bare: dict[str, str]) -> None:
    lock = wheel(tmp_path, "ziglang", "1.0")  # which pip does not find there
    service = wheel(tmp_path / "wheels", "alpha", "1.0")
    done = set_up(tmp_path, service, ".venv/kernel", compiler=lock, **bare)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "so the service uses the slower NumPy step" in done.stderr
    assert (tmp_path / ".venv" / "serves").exists()
    assert not (tmp_path / ".venv" / "kernel").exists(), "the next `make` tries again"


@pytest.mark.parametrize(("target", "newest"), [("serve", "3.14"), ("train", "3.13"), ("setup", "3.13")])
def test_a_python_that_will_not_do_is_told_with_one_that_will(tmp_path: Path, target: str, newest: str) -> None:
    (tmp_path / "python3.15").write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.15.0\nexit 1\n')
    (tmp_path / "python3.15").chmod(0o755)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["make", target, f"PYTHON={tmp_path / 'python3.15'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"Python 3.11 to {newest}" in done.stdout
    assert f"make {target} PYTHON=python{newest}" in done.stdout
    assert ("TensorFlow has no release" in done.stdout) == (target != "serve")


@pytest.mark.parametrize("target", ["train", "model"])
def test_training_installs_the_trainers_lock_and_no_other(target: str) -> None:
    command = ["make", "--dry-run", "--always-make", target, f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    locks = set(re.findall(r"requirements/(\w+)\.txt", done.stdout))
    assert locks == {"trainer", "build", "compiler"}, "of these `compiler` is used where there is no C compiler"
