"""Publishes versions: whole, broken, and by processes that are killed."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.server import ROOT
from tests.soak.server import MODEL
from trainer import artifact
from trainer.artifact import ArtifactError

# Publishes versions until it is killed; prints a line when it starts.
PUBLISHER = """
import sys
from pathlib import Path
from trainer import artifact

models, version = Path(sys.argv[1]), artifact.read(Path(sys.argv[2]))
print(flush=True)
while True:
    artifact.publish(models, version.config.model_dump(), version.tensors, {})
"""


def publish_next(model: Path) -> int:
    """Publishes the newest version with every weight changed by about a thousandth; returns the new number."""
    newest = artifact.read(model / str(artifact.versions(model)[-1]))
    rng = np.random.default_rng(newest.config.version)
    tensors = {
        name: tensor * (1 + rng.standard_normal(tensor.shape, np.float32) / np.float32(1000))
        for name, tensor in newest.tensors.items()
    }
    return artifact.publish(model.parent, newest.config.model_dump(), tensors, {}).config.version


async def publish_and_die(model: Path, seconds: float) -> None:
    """Starts a process that publishes versions, and kills it after `seconds`."""
    newest = model / str(artifact.versions(model)[-1])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PUBLISHER, str(model.parent), str(newest), cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        if process.stdout is None or not await process.stdout.readline():
            raise ChildProcessError("the publisher ended by itself")
        await asyncio.sleep(seconds)
    finally:
        process.kill()
        await process.wait()


def remove_before(models: Path, number: int) -> None:
    """Removes versions that are not served any more, to save disk space."""
    for version in artifact.versions(models / MODEL):
        if version < number:
            shutil.rmtree(models / MODEL / str(version))


def broken_copies(version: Path) -> list[Path]:
    """Makes three versions that cannot be served: one with a changed bit, one half copied, one of another model's name."""
    turned, half, foreign = version.with_name("1000"), version.with_name("1001"), version.parents[1] / "hamlet" / version.name
    for copy in (turned, foreign):
        shutil.copytree(version, copy)
    weights = bytearray((turned / artifact.WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (turned / artifact.WEIGHTS).write_bytes(weights)
    half.mkdir()
    shutil.copy(version / artifact.CONFIG, half)
    return [turned, half, foreign]


def publishing_error(models: Path) -> str:
    try:
        publish_next(models / MODEL)
    except ArtifactError as error:
        return str(error)
    return "published"
