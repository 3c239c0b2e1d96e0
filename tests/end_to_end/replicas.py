"""What must hold of two replicas of the service, whatever stands between them and their clients: each check asks by that alone."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import httpx

from tests.sse import Event, events
from tests.support import at_once, metric, wait_until

T = TypeVar("T")
Served = Callable[[], dict[float, float]]  # requests that have ended, of each replica, which its start tells from others

BODY: dict[str, Any] = {"start_string": "To be", "num_generate": 300, "seed": 1}
STREAMS, PACE = 8, 10  # characters a second: slow enough that none ends by itself


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

    def part(last: dict[str, str]) -> list[Event]:
        with client.stream("POST", "/generate", json=body | {"stream": True}, headers=last) as response:
            assert response.status_code == 200, response.read()
            received = events(response.iter_bytes())
            return [event for event, _ in zip(received, range(2))]  # noqa: B905 - it is cut after the second

    def of_all() -> bool:
        """Reads it whole; whether all have had a part in it."""
        before, parts, got = served(), 0, list[Event]()
        while not got or got[-1].name == "message":
            got += part({"Last-Event-ID": str(got[-1].id)} if got else {})
            parts += 1
        assert BODY["start_string"] + "".join(event.data["text"] for event in got[:-1]) == whole
        wait_until(lambda: sum(served().values()) >= sum(before.values()) + parts)  # of those left too
        return all(count > before[replica] for replica, count in served().items())

    assert any(of_all() for _ in range(50)), "some replica is never asked"


class Followed(NamedTuple):
    text: str
    cut: int  # how often, by a replica's end


def follow(
    address: str, body: dict[str, Any], begun: threading.Semaphore, hurry: threading.Event, passing: Collection[int]
) -> Followed:
    """A slow stream, gone on with by Last-Event-ID when it is cut; once all are to hurry, at full speed.

    passing: statuses that are answered while a replica has died and nobody knows it yet.
    """
    got, cut, last = list[Event](), 0, dict[str, str]()
    with httpx.Client(base_url=address, timeout=60) as client:
        while not got or got[-1].name == "message":
            slow = {} if hurry.is_set() else {"pace": PACE}
            try:
                with client.stream("POST", "/generate", json=body | {"stream": True} | slow, headers=last) as response:
                    if response.status_code in passing:
                        time.sleep(0.1)  # as a client would
                        continue
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


def check_deaths(client: httpx.Client, *kills: Callable[[], None], passing: Collection[int] = ()) -> list[Followed]:
    """Streams that run while replicas are killed, one after the other: nothing is lost and nothing repeated."""
    bodies = [BODY | {"num_generate": 20_000, "seed": seed} for seed in range(STREAMS)]
    whole = [client.post("/generate", json=body).json()["text"] for body in bodies]
    begun, hurry = threading.Semaphore(0), threading.Event()
    with ThreadPoolExecutor(STREAMS) as pool:
        try:
            streams = [pool.submit(follow, str(client.base_url), body, begun, hurry, passing) for body in bodies]
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
