"""The Makefile's set-up, with packages made here: it installs exactly the lock, whatever has been released since."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

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
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def wheel(folder: Path, name: str, version: str, *requires: str) -> str:
    """Makes a package without any code; returns its line of a lock."""
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: more\n"]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{info}/METADATA", "".join([*metadata, *(f"Requires-Dist: {required}\n" for required in requires)]))
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def set_up(folder: Path, lock: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements").mkdir(exist_ok=True)
    for name in ("service", "trainer", "dev"):
        (folder / "requirements" / f"{name}.txt").write_text(lock)
    (folder / "requirements" / "build.txt").write_text("")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "wheels"), "PIP_CONFIG_FILE": os.devnull}
    command = ["make", ".venv/serves", f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=folder, env=os.environ | offline, capture_output=True, text=True, check=False)


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


def test_a_lock_that_is_not_whole_is_told(set_ups: dict[str, SetUp]) -> None:
    folder, done = set_ups["lacking"]
    assert done.returncode != 0
    assert "alpha 1.0 requires beta, which is not installed" in done.stdout
    assert not (folder / ".venv" / "serves").exists(), "the next `make` tries again"


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
