"""Two processes behind the nginx of compose/replicas.yml: it makes no difference which of them answers, nor that one is killed."""

import asyncio
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple, TypeVar

import httpx
import pytest

from tests.end_to_end.processes import ROOT, needs_nginx, nginx, service
from tests.end_to_end.test_seed_guarantee import at_once
from tests.sse import Event, events
from tests.support import ARCHITECTURE, config, random_tensors, wait_until
from trainer import artifact

T = TypeVar("T")
Served = Callable[[], dict[float, float]]  # requests that have ended, of each replica, which its start tells from others

BODY: dict[str, Any] = {"start_string": "To be", "num_generate": 300, "seed": 1}
STREAMS, PACE = 8, 10  # characters a second: slow enough that none ends by itself

pytestmark = needs_nginx


def publish(models: Path, seed: int = 0) -> None:
    artifact.publish(models, config(ARCHITECTURE), random_tensors(ARCHITECTURE, seed), {})


def metric(exposition: str, name: str) -> float:
    """The sum of what all series of that name say."""
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", exposition, re.MULTILINE)))


def started(exposition: str) -> float:
    return metric(exposition, "process_start_time_seconds")


def requests_ended(exposition: str) -> float:
    return metric(exposition, "folio_request_success_total")


def asked_of(served: Served, ask: Callable[[], T]) -> tuple[float, T]:
    """(Which replica has served it, the answer) of one request."""
    before = served()
    answer = ask()
    (replica,) = (replica for replica, count in served().items() if count > before[replica])
    return replica, answer


def all_serve(served: Served, ask: Callable[[], object]) -> None:
    """Asks until every replica has served, and five times at least: who does is for the balancer to draw."""
    before, times = served(), 0
    while times < 5 or any(count == before[replica] for replica, count in served().items()):
        assert times < 200, "some replica is never asked"
        ask()
        times += 1


def check_one_text(client: httpx.Client, served: Served) -> None:
    """Of the same request whoever serves it: one by one and eight at once, streamed and not."""
    answers: Counter[tuple[str, str]] = Counter()

    def ask(count: int, streamed: bool) -> None:
        answers.update(asyncio.run(at_once(str(client.base_url), [BODY] * count, streamed=streamed)))

    for count in (1, STREAMS):
        for streamed in (False, True):
            all_serve(served, partial(ask, count, streamed))
    assert len(answers) == 1, answers


def check_tokens(client: httpx.Client, served: Served) -> None:
    """A state token is taken by any: 500 characters are the same as 200 and, by the other replica, 300 more."""

    def text(**fields: Any) -> dict[str, Any]:
        response = client.post("/generate", json=fields)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    whole = text(**BODY | {"num_generate": 500})["text"]
    pairs: Counter[tuple[float, float]] = Counter()
    while len({pair for pair in pairs if pair[0] != pair[1]}) < 2:  # one's by the other, and the other's by the one
        assert pairs.total() < 200, pairs
        one, first = asked_of(served, partial(text, **BODY | {"num_generate": 200, "return_state": True}))
        other, rest = asked_of(served, partial(text, state=first["state"], num_generate=300))
        assert first["text"] + rest["text"] == whole
        pairs[one, other] += 1
        text(**BODY)  # a balancer that asks them in turn would have each go on with the same one's


def check_cut(client: httpx.Client, served: Served) -> None:
    """A stream that its client leaves after every other event and goes on with is whole, though all have had a part in it."""
    body = BODY | {"num_generate": 2_000}
    whole = client.post("/generate", json=body).json()["text"]
    got: list[Event] = []

    def part() -> None:
        last = {"Last-Event-ID": str(got[-1].id)} if got else {}
        with client.stream("POST", "/generate", json=body | {"stream": True}, headers=last) as response:
            assert response.status_code == 200, response.read()
            received = events(response.iter_bytes())
            got.extend(event for event, _ in zip(received, range(2)))  # noqa: B905 - it is cut after the second

    before, parts = served(), 0
    while not got or got[-1].name == "message":
        part()
        parts += 1
    assert BODY["start_string"] + "".join(event.data["text"] for event in got[:-1]) == whole
    wait_until(lambda: sum(served().values()) == sum(before.values()) + parts)  # of those left too
    assert all(count > before[replica] for replica, count in served().items())


class Followed(NamedTuple):
    text: str
    cut: int  # how often, by a replica's end


def follow(address: str, body: dict[str, Any], begun: threading.Semaphore, hurry: threading.Event) -> Followed:
    """A slow stream, gone on with by Last-Event-ID when it is cut; once all are to hurry, at full speed."""
    got, cut, last = list[Event](), 0, dict[str, str]()
    with httpx.Client(base_url=address, timeout=60) as client:
        while not got or got[-1].name == "message":
            slow = {} if hurry.is_set() else {"pace": PACE}
            try:
                with client.stream("POST", "/generate", json=body | {"stream": True} | slow, headers=last) as response:
                    assert response.status_code == 200, response.read()
                    for event in events(response.iter_bytes()):
                        if not got:
                            begun.release()
                        got.append(event)
                        last = {"Last-Event-ID": str(event.id)}
                        if slow and hurry.is_set():
                            break
            except httpx.RemoteProtocolError:
                cut += 1
    *texts, done = got
    assert done.name == "done", done
    return Followed(body["start_string"] + "".join(event.data["text"] for event in texts), cut)


def check_deaths(client: httpx.Client, *kills: Callable[[], None]) -> list[Followed]:
    """Streams that run while replicas are killed, one after the other: nothing is lost and nothing repeated."""
    bodies = [BODY | {"num_generate": 2_000, "seed": seed} for seed in range(STREAMS)]
    whole = [client.post("/generate", json=body).json()["text"] for body in bodies]
    begun, hurry = threading.Semaphore(0), threading.Event()
    with ThreadPoolExecutor(STREAMS) as pool:
        try:
            streams = [pool.submit(follow, str(client.base_url), body, begun, hurry) for body in bodies]
            for _ in streams:
                assert begun.acquire(timeout=60)
            for kill in kills:
                assert not any(stream.done() for stream in streams)
                kill()
        finally:
            hurry.set()
    followed = [stream.result() for stream in streams]
    assert [stream.text for stream in followed] == whole
    return followed


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


@pytest.fixture
def balanced(tmp_path: Path) -> Iterator[Balanced]:
    models, folder = tmp_path / "models", tmp_path / "nginx"
    folder.mkdir()
    publish(models)
    start = partial(service, SERVICE_MODELS_DIR=str(models), SERVICE_SECRET="one secret for both")
    with start() as one, start() as other:
        ports = [direct.base_url.port or 80 for _, direct in (one, other)]
        with nginx(folder, partial(configuration, ports)) as client:
            yield Balanced(client, [one, other])


def test_one_seed_is_one_text_whichever_replica_serves(balanced: Balanced) -> None:
    check_one_text(balanced.client, balanced.served)


def test_a_state_token_of_one_replica_is_taken_by_the_other(balanced: Balanced) -> None:
    check_tokens(balanced.client, balanced.served)


def test_a_stream_that_is_cut_is_gone_on_with_by_whichever_replica(balanced: Balanced) -> None:
    check_cut(balanced.client, balanced.served)


def test_when_a_replica_is_killed_its_streams_are_gone_on_with_and_its_other_requests_answered_by_the_other(
    balanced: Balanced,
) -> None:
    body = BODY | {"num_generate": 100_000}
    whole = balanced.client.post("/generate", json=body).json()["text"]
    answers: list[Future[httpx.Response]] = []
    with ThreadPoolExecutor(1) as pool:

        def kill() -> None:
            """The one that generates an answer which is no stream."""
            wait_until(lambda: not any(map(generates, balanced.replicas)))  # of slow streams all is there, and is sent slowly
            answers.append(pool.submit(balanced.client.post, "/generate", json=body))
            wait_until(lambda: any(map(generates, balanced.replicas)))
            (busy,) = filter(generates, balanced.replicas)
            busy[0].kill()
            busy[0].wait()

        followed = check_deaths(balanced.client, kill)
    answer = answers[0].result()
    assert sum(stream.cut for stream in followed) >= 1, "it had some of them"
    assert (answer.status_code, answer.json()["text"]) == (200, whole)


def generates(replica: tuple[subprocess.Popen[bytes], httpx.Client]) -> bool:
    return metric(replica[1].get("/metrics").text, "folio_num_requests_running") > 0
