"""The containers, with whatever engine `docker` answers with: the shipped model served, a version trained into the volume."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.end_to_end.processes import ROOT
from tests.ports import free_port
from tests.support import wait_until

Compose = Callable[..., str]


def engine_missing() -> str | None:
    """Why there is no container engine with Compose, or None where there is."""
    if shutil.which("docker") is None:
        return "no docker command"
    for command in (["docker", "compose", "version"], ["docker", "info"]):
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            return f"{' '.join(command)}: {(finished.stderr.strip() or 'failed').splitlines()[0]}"
    return None


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def compose(port: int) -> Iterator[Compose]:
    """docker compose, as a project of its own that is gone afterwards."""
    if reason := engine_missing():
        pytest.skip(f"no container engine: {reason}")
    project = f"folio-test-{uuid.uuid4().hex[:8]}"

    def compose(*arguments: str) -> str:
        finished = subprocess.run(
            ["docker", "compose", "--project-name", project, *arguments],
            cwd=ROOT, env=os.environ | {"FOLIO_PORT": str(port)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    yield compose
    compose("--profile", "trainer", "down", "--volumes", "--remove-orphans")


def test_the_shipped_model_is_served_and_a_trained_version_follows_it_without_a_restart(compose: Compose, port: int) -> None:
    compose("build", "api", "trainer")
    compose("up", "--detach", "--wait", "api")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        body = {"start_string": "ROMEO: ", "num_generate": 50, "seed": 1}
        shipped = client.post("/generate", json=body).json()
        assert shipped["model"] == "shakespeare"
        assert len(shipped["text"]) == 57
        before = compose("ps", "--format", "{{.ID}} {{.CreatedAt}}", "api")

        said = compose("run", "--rm", "trainer", "--epochs", "1", "--units", "16", "--embedding", "8", "--seed", "3")
        assert f"published /models/shakespeare/{shipped['version'] + 1}" in said

        wait_until(lambda: client.get("/models/shakespeare").json()["version"] > shipped["version"], seconds=120)
        trained = client.post("/generate", json=body).json()
        assert trained["version"] == shipped["version"] + 1
        assert trained["text"] != shipped["text"]
        assert compose("ps", "--format", "{{.ID}} {{.CreatedAt}}", "api") == before

    found = _inside(compose)
    assert found.pop("own bytes") < 250e6  # beside Python's slim image, of some 130 MB
    assert found == {
        "user": 10001, "kernel": True, "compiler": False, "tools": [],
        "written": ["/models"], "capabilities": 0, "new privileges": False,
    }  # fmt: skip
    compose("stop", "api")
    assert json.loads(compose("ps", "--all", "--format", "json", "api").splitlines()[0])["ExitCode"] == 0


def test_the_image_alone_serves_the_included_model_without_volume_and_keys(port: int) -> None:
    if reason := engine_missing():
        pytest.skip(f"no container engine: {reason}")
    name = f"folio-test-{uuid.uuid4().hex[:8]}"
    docker("build", "--build-arg", "PYTHON_VERSION", "--tag", name, str(ROOT))  # its value is that of the environment, if any
    try:
        docker("run", "--detach", "--rm", "--name", name, "--publish", f"127.0.0.1:{port}:8000", name)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until(lambda: _is_ready(client), seconds=120)
            assert client.post("/generate", json={"start_string": "ROMEO: ", "num_generate": 5}).json()["model"] == "shakespeare"
            assert client.get("/models", headers={"Host": "evil.example"}).status_code == 421
        assert "no API keys" in docker("logs", name)
    finally:
        docker("rm", "--force", name)
        docker("rmi", "--force", name)


def docker(*arguments: str) -> str:
    """Its output, with what it wrote to stderr."""
    done = subprocess.run(["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _inside(compose: Compose) -> Any:
    """What somebody who has broken into the service would find."""
    script = """
import importlib.util, json, os, pathlib, shutil
from service.generation.kernel.build import find
OURS = ("/app", "/models", "/opt/folio")
def writable(folder):
    try:
        (pathlib.Path(folder) / "probe").write_text("")
        (pathlib.Path(folder) / "probe").unlink()
    except OSError:
        return False
    return True
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
print(json.dumps({
    "own bytes": sum(file.lstat().st_size for folder in OURS for file in pathlib.Path(folder).rglob("*")),
    "user": os.getuid(),
    "tools": [tool for tool in ("gcc", "make", "curl") if shutil.which(tool, path="/opt/folio/bin:/usr/bin:/bin")],
    "compiler": importlib.util.find_spec("ziglang") is not None,
    "kernel": find() is not None,
    "written": [folder for folder in ("/", "/etc", "/usr/bin", *OURS) if writable(folder)],
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "new privileges": status["NoNewPrivs"] == "0",
}))
"""
    return json.loads(compose("exec", "-T", "api", "python", "-c", script))
