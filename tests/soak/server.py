"""The service in a process of its own, on a copy of the included model, and what can be observed of it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.server import ROOT, Server, running
from tests.soak.clients import MOST, Answer, connected, generate_body, send

MODEL = "shakespeare"


@dataclass(frozen=True)
class Service(Server):
    """A server that is ready."""

    models: Path

    async def send(self, path: str, body: Any = None, *headers: str, most: int = MOST) -> Answer:
        return await send(self.port, path, body, *headers, most=most)

    async def sample(self) -> str:
        """The answer to one fixed request with a seed."""
        return str((await self.send("/generate", generate_body(200, seed=1))).json()["text"])

    async def gauge(self, name: str) -> float:
        """A metric, summed over all models."""
        lines = (await self.send("/metrics")).content.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def is_idle(self, descriptors: int) -> bool:
        """No request has a slot or waits for one, and at most so many files are open."""
        busy = await self.gauge("folio_num_requests_running") + await self.gauge("folio_num_requests_waiting")
        return not busy and self.descriptors() <= descriptors

    async def serves(self, version: int) -> bool:
        models = (await self.send("/models")).json()["models"]
        return bool([model["version"] for model in models] == [version])

    async def refused(self) -> list[str]:
        reasons: list[str] = (await self.send("/models")).json()["refused"]
        return reasons

    async def refuses(self, version: Path) -> bool:
        return any(str(version) in reason for reason in await self.refused())

    async def connects(self, count: int) -> bool:
        return len(connected(self.port)) >= count


@contextmanager
def service(*flags: object, models: Path | None = None) -> Iterator[Service]:
    """`python -m service` on a models folder; without one, on a copy of the included model."""
    with TemporaryDirectory() as folder:
        models = models or copy_included(Path(folder) / "models")
        with running("service", ["--models-dir", models, *flags], "/readyz") as server:
            yield Service(server.port, server.pid, server.start_seconds, models)


def copy_included(models: Path) -> Path:
    shutil.copytree(ROOT / "models" / MODEL, models / MODEL)
    return models
