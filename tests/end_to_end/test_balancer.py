"""Two processes behind the nginx of compose/replicas.yml: it makes no difference which of them answers, nor that one is killed."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import httpx
import pytest

from tests.end_to_end.processes import ROOT, needs_nginx, nginx, service
from tests.end_to_end.replicas import BODY, STREAMS, check_cut, check_deaths, check_one_text, check_tokens, requests_ended, started
from tests.support import publish, running, wait_until

pytestmark = needs_nginx


def configuration(servers: list[int], port: int) -> str:
    """What compose/replicas.yml gives nginx, but for the addresses. There Docker's resolver knows them."""
    text = dedent((ROOT / "compose" / "replicas.yml").read_text().partition("content: |\n")[2]).replace("$$", "$")
    for theirs, here in {
        "resolver 127.0.0.11 valid=5s;": "",
        "server api:8000 resolve;": " ".join(f"server 127.0.0.1:{server};" for server in servers),
        "listen 8000;": f"listen 127.0.0.1:{port};",
    }.items():
        assert theirs in text
        text = text.replace(theirs, here)
    return text


class Balanced(NamedTuple):
    client: httpx.Client  # through nginx
    replicas: list[tuple[subprocess.Popen[bytes], httpx.Client]]  # and past it

    def served(self) -> dict[float, float]:
        said = [direct.get("/metrics").text for _, direct in self.replicas]
        return {started(exposition): requests_ended(exposition) for exposition in said}


@contextmanager
def two_replicas(folder: Path) -> Iterator[Balanced]:
    models = folder / "models"
    publish(models)
    start = partial(service, SERVICE_MODELS_DIR=str(models), SERVICE_SECRET="one secret for both")
    with start() as one, start() as other:
        ports = [direct.base_url.port or 80 for _, direct in (one, other)]
        with nginx(folder, partial(configuration, ports)) as client:
            yield Balanced(client, [one, other])


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balanced]:
    with two_replicas(tmp_path_factory.mktemp("replicas")) as balanced:
        yield balanced


def test_one_seed_is_one_text_whichever_replica_serves(balanced: Balanced) -> None:
    check_one_text(balanced.client, balanced.served)


def test_a_state_token_of_one_replica_is_taken_by_the_other(balanced: Balanced) -> None:
    check_tokens(balanced.client, balanced.served)


def test_a_stream_that_is_cut_is_gone_on_with_by_whichever_replica(balanced: Balanced) -> None:
    check_cut(balanced.client, balanced.served)


def test_when_a_replica_is_killed_its_streams_are_gone_on_with_and_its_other_requests_answered_by_the_other(
    tmp_path: Path,
) -> None:
    body = BODY | {"num_generate": 1000, "pace": 100}  # is generated at once, and answered ten seconds later
    with two_replicas(tmp_path) as balanced, ThreadPoolExecutor(1) as pool:
        whole = balanced.client.post("/generate", json=body).json()["text"]
        answers: list[Future[httpx.Response]] = []

        def kill() -> None:
            """The one that generates an answer which is no stream."""
            wait_until(lambda: not any(running(direct) for _, direct in balanced.replicas))  # of the streams all is generated
            # The request above, those of check_deaths, and its streams.
            wait_until(lambda: sum(balanced.served().values()) == 1 + 2 * STREAMS)
            before = balanced.served()
            answers.append(pool.submit(balanced.client.post, "/generate", json=body))
            wait_until(lambda: balanced.served() != before)
            ((started_at, _),) = balanced.served().items() - before.items()
            (process,) = (process for process, direct in balanced.replicas if started(direct.get("/metrics").text) == started_at)
            process.kill()
            process.wait()

        followed = check_deaths(balanced.client, kill)
        answer = answers[0].result()
    assert sum(stream.cut for stream in followed) >= 1, "it had some of them"
    assert (answer.status_code, answer.json()["text"]) == (200, whole)
