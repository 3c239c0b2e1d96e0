"""The service on a Ray cluster of two nodes, a replica on each: through Ray's proxy all is as with one process, and one may die."""

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.end_to_end.processes import ROOT, reads_proc
from tests.end_to_end.replicas import (
    BODY,
    STREAMS,
    all_serve,
    check_cut,
    check_deaths,
    check_one_text,
    check_tokens,
    requests_ended,
    started,
)
from tests.ports import free_port
from tests.sse import events
from tests.support import ENDLESS, metric, publish, wait_until

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="no Ray here; it comes with the extra `cluster`"),
    reads_proc,
]

REPLICA = b"ray::ServeReplica:"  # how the title of its process begins
SLOTS = QUEUE = 4  # of each

VARIABLES = {
    "SERVICE_WATCH": "0.2",
    "SERVICE_SLOTS": str(SLOTS),
    "SERVICE_QUEUE_LIMIT": str(QUEUE),
    "SERVICE_MAX_NUM_GENERATE": str(ENDLESS["num_generate"]),
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent from here
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # nodes talk on 127.0.0.1, as Ray's do on those systems
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # by itself 5, within which a busy machine starts none
    "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",  # else the one proxy asks only the replica on its node
}


class Cluster(NamedTuple):
    client: httpx.Client  # of Ray's proxy
    models: Path

    def expositions(self) -> dict[float, str]:
        """What /metrics of each of the two replicas says, by its start: asked until both have answered.

        Ray asks whoever has less to do, so that more and more are sent at the same time.
        """
        found: dict[float, str] = {}
        counts = chain([1] * 4, [4] * 4, repeat(16))

        def ask(_: object) -> None:
            with suppress(httpx.TransportError):
                response = self.client.get("/metrics")
                if response.status_code == 200:  # not while one has died and Ray does not know it yet
                    found[started(response.text)] = response.text

        def both() -> bool:
            with ThreadPoolExecutor(count := next(counts)) as pool:
                list(pool.map(ask, range(count)))
            return len(found) == 2

        wait_until(both)
        return found

    def served(self) -> dict[float, float]:
        return {start: requests_ended(exposition) for start, exposition in self.expositions().items()}

    def running(self) -> list[float]:
        """Requests that have a slot, of each."""
        return [metric(exposition, "folio_num_requests_running") for exposition in self.expositions().values()]

    def waiting(self) -> list[float]:
        return [metric(exposition, "folio_num_requests_waiting") for exposition in self.expositions().values()]

    def full(self) -> bool:
        """Neither has a slot or a place in its queue left."""
        return all(
            metric(exposition, "folio_num_requests_running") == SLOTS and metric(exposition, "folio_num_requests_waiting") == QUEUE
            for exposition in self.expositions().values()
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    models = tmp_path_factory.mktemp("models")
    publish(models)
    port = free_port()
    command = [sys.executable, "-m", "tests.end_to_end.ray_nodes", str(port)]
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # pytest's are too long for the names of sockets
        environment = os.environ | VARIABLES | {"SERVICE_MODELS_DIR": str(models), "RAY_TMPDIR": folder}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                assert select.select([process.stdout], [], [], 300)[0], "the cluster does not start"
                assert process.stdout.readline() == b"ready\n", "the cluster ended; what it said is above"
                one, other = processes(models, REPLICA)
                if start(one) == start(other):  # nothing would tell them apart
                    os.kill(one, signal.SIGKILL)
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                    found = Cluster(client, models)
                    found.expositions()
                    yield found
                process.communicate(timeout=300)
            finally:
                process.kill()
        wait_until(lambda: not processes(models))


def processes(models: Path, title: bytes = b"") -> list[int]:
    """Of the cluster that serves that folder, those whose title begins so."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is somebody else's
            variables = (process / "environ").read_bytes().split(b"\0")
            if f"SERVICE_MODELS_DIR={models}".encode() in variables and (process / "cmdline").read_bytes().startswith(title):
                found.append(int(process.name))
    return found


def start(process: int) -> int:
    """In clock ticks, which is as exactly as /metrics says it."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])


def test_one_seed_is_one_text_whichever_replica_serves(cluster: Cluster) -> None:
    check_one_text(cluster.client, cluster.served)


def test_a_state_token_of_one_replica_is_taken_by_the_other(cluster: Cluster) -> None:
    check_tokens(cluster.client, cluster.served)


def test_a_stream_that_is_cut_is_gone_on_with_by_whichever_replica(cluster: Cluster) -> None:
    check_cut(cluster.client, cluster.served)


def test_streams_events_are_there_while_they_are_generated_and_who_leaves_frees_the_slot(cluster: Cluster) -> None:
    with streaming(cluster, lambda: min(cluster.running()) > 0) as responses:
        received = [events(response.iter_bytes()) for response in responses]
        assert all(next(one).data["text"] for one in received)
        assert sum(cluster.running()) == len(responses), "at any speed they take hours: none has ended"
    wait_until(lambda: cluster.running() == [0, 0])


@contextmanager
def streaming(cluster: Cluster, enough: Callable[[], bool]) -> Iterator[list[httpx.Response]]:
    """Streams without an end, opened one after the other until there are enough: which replica gets which is for Ray to draw."""
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=cluster.client.base_url, timeout=60))
        responses: list[httpx.Response] = []
        for _ in range(50):
            if enough():
                break
            response = stack.enter_context(client.stream("POST", "/generate", json=ENDLESS))
            assert response.status_code in (200, 429), response.read()
            if response.status_code == 200:
                responses.append(response)
        else:
            pytest.fail("some replica is hardly ever asked")
        yield responses


def test_a_new_version_under_load_fails_no_request_and_is_served_by_all(cluster: Cluster) -> None:
    texts: dict[int, set[str]] = {}
    before = version(cluster)
    over = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=cluster.client.base_url, timeout=60) as client:
            while not over.is_set():
                response = client.post("/generate", json=BODY)
                assert response.status_code == 200, response.text
                answer = response.json()
                texts.setdefault(answer["version"], set()).add(answer["text"])

    with ThreadPoolExecutor(SLOTS) as pool:
        loads = [pool.submit(load) for _ in range(SLOTS)]
        try:
            wait_until(lambda: before in texts)
            publish(cluster.models, seed=before)
            wait_until(lambda: version(cluster) == before + 1)
            then = cluster.served()
            wait_until(lambda: all(count > then[replica] for replica, count in cluster.served().items()))
        finally:
            over.set()
    for one in loads:
        one.result()
    assert [len(texts[number]) for number in (before, before + 1)] == [1, 1], "one seed, one version, one text"
    assert texts[before] != texts[before + 1]
    answers = []
    all_serve(cluster.served, lambda: answers.append(cluster.client.post("/generate", json=BODY).json()["version"]))
    assert set(answers) == {before + 1}


def version(cluster: Cluster) -> int:
    """The one that both serve; 0 while they differ."""
    found = {
        number
        for exposition in cluster.expositions().values()
        for number in re.findall(r'^folio_version_info\{.*version="(\d+)".*\} 1', exposition, re.MULTILINE)
    }
    return int(found.pop()) if len(found) == 1 else 0


def test_what_does_not_fit_is_429_with_retry_after_and_the_rest_is_served(cluster: Cluster) -> None:
    def ask(_: object) -> httpx.Response:
        return cluster.client.post("/generate", json=BODY)

    with ThreadPoolExecutor(5 * STREAMS) as pool:
        flood = list(pool.map(ask, range(5 * STREAMS)))  # Ray turns some away itself, in its own words
        assert {response.status_code for response in flood} <= {200, 429}
        with streaming(cluster, cluster.full):
            refused = [response for _ in range(5) for response in pool.map(ask, range(STREAMS))]
    for response in refused:
        assert (response.status_code, response.json()["error"]["code"]) == (429, "queue_full")
    for response in flood + refused:
        assert response.status_code == 200 or int(response.headers["Retry-After"]) >= 1
    wait_until(lambda: cluster.running() == cluster.waiting() == [0, 0])
    all_serve(cluster.served, lambda: ask(None).raise_for_status())


def test_when_replicas_are_killed_their_streams_are_gone_on_with_and_others_take_their_places(cluster: Cluster) -> None:
    """One after the other, so that every stream is cut."""
    known = set(cluster.expositions())

    def kill(replica: int) -> None:
        os.kill(replica, signal.SIGKILL)
        wait_until(successor, seconds=300)

    def successor() -> bool:
        """Answers: it has less to do than the one that is left."""
        with suppress(httpx.TransportError):
            response = cluster.client.get("/metrics")
            if response.status_code == 200 and started(response.text) not in known:
                known.add(started(response.text))
                return True
        return False

    one, other = processes(cluster.models, REPLICA)
    followed = check_deaths(cluster.client, lambda: kill(one), lambda: kill(other), passing=(500, 503))
    assert min(stream.cut for stream in followed) >= 1
    assert len(known) == 4
    check_one_text(cluster.client, cluster.served)
