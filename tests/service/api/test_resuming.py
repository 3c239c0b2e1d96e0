"""Interrupted streams are resumed by Last-Event-ID, on this replica or another one with the same version."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.resume import EventId
from service.generation.backends import Unsupported, load_library
from service.settings import Settings
from tests.sse import Event, events
from tests.support import ARCHITECTURE, config, random_tensors, serving, stream
from trainer import artifact

BODY: dict[str, Any] = {"start_string": "To be", "num_generate": 300, "temperature": 0.9}


@pytest.fixture(scope="module", params=[("native", "native"), ("native", "reference")], ids=" and ".join)
def replicas(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Two servers over one models folder; their calls are cut in different places, and they may compute by other means."""
    if "native" in request.param:
        try:
            load_library()
        except Unsupported as error:
            pytest.skip(str(error))
    models = tmp_path_factory.mktemp("models")
    artifact.publish(models, config(ARCHITECTURE), random_tensors(ARCHITECTURE), {})
    one, two = (
        Settings(models_dir=models, chunk=chunk, call_ms=1000, backend=backend)
        for chunk, backend in zip((7, 64), request.param, strict=True)
    )
    with serving(one) as (_, first), serving(two) as (_, second):
        yield first, second


def after(client: httpx.Client, last: str | None, limit: int | None = None, **body: Any) -> list[Event]:
    """The stream's events, or with a limit as many bytes of it as that, and then the connection is cut."""
    headers = {"Last-Event-ID": last} if last else {}
    with client.stream("POST", "/generate", json={**body, "stream": True}, headers=headers) as response:
        assert response.status_code == 200, response.read()
        if limit is None:
            return list(events(response.iter_bytes()))
        received = b""
        for chunk in response.iter_raw():
            received += chunk
            if len(received) >= limit:
                break
        whole, _, _ = received[:limit].rpartition(b"\n\n")  # a client drops an event that it has not all of
        return list(events([whole + b"\n\n"])) if whole else []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [5, None])
def test_cut_anywhere_again_and_again_nothing_is_lost_or_repeated(
    replicas: tuple[httpx.Client, httpx.Client], seed: int | None
) -> None:
    rng = random.Random(0)
    for _ in range(5):
        body = BODY | ({} if seed is None else {"seed": seed})
        body |= {"stop": ["zq"], "logprobs": 2}
        last, got = None, list[Event]()
        while not got or got[-1].name == "message":
            replica = rng.choice(replicas)
            got += after(replica, last, rng.choice([200, 2_000, 9_000, None]), **body)
            last = got[-1].id if got else None
            if last is None and seed is None:
                got = after(replica, None, 60_000, **body)  # without an id and a seed there is nothing to go on with
                last = got[-1].id
        *texts, done = got
        text = "".join(event.data["text"] for event in texts)
        expected = replicas[0].post("/generate", json={**body, "seed": done.data["seed"]}).json()
        assert expected["text"] == BODY["start_string"] + text
        assert [entry for event in texts for entry in event.data["logprobs"]] == expected["logprobs"]
        assert done.data["usage"] == expected["usage"]
        assert {event.id and event.id[:32] for event in got} == {done.data["id"]}, "one answer, one id"


def test_a_stream_that_had_ended_is_204_so_that_an_eventsource_asks_no_more(replicas: tuple[httpx.Client, httpx.Client]) -> None:
    done = stream(replicas[0], **BODY)[-1]
    headers = {"Last-Event-ID": str(done.id)}
    for response in (
        replicas[1].post("/generate", json={**BODY, "stream": True}, headers=headers),
        replicas[1].get("/generate", params=BODY, headers=headers),
    ):
        assert (response.status_code, response.content) == (204, b"")


def test_what_was_echoed_is_not_echoed_again(replicas: tuple[httpx.Client, httpx.Client]) -> None:
    body = {**BODY, "seed": 2, "echo": True}
    first, *rest = after(replicas[0], None, **body)
    assert first.data["text"] == BODY["start_string"]
    resumed = after(replicas[1], first.id, **body)
    assert "".join(event.data["text"] for event in resumed[:-1]) == "".join(event.data["text"] for event in rest[:-1])


def test_a_get_streams_and_resumes_as_a_post_does(replicas: tuple[httpx.Client, httpx.Client]) -> None:
    whole = replicas[0].post("/generate", json={**BODY, "seed": 8}).json()["text"]
    with replicas[0].stream("GET", "/generate", params={**BODY, "seed": 8}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        first = next(events(response.iter_bytes()))
    with replicas[1].stream("GET", "/generate", params={**BODY, "seed": 8}, headers={"Last-Event-ID": str(first.id)}) as response:
        rest = list(events(response.iter_bytes()))
    assert BODY["start_string"] + "".join(event.data["text"] for event in [first, *rest[:-1]]) == whole


def test_a_version_may_have_any_number() -> None:
    event = EventId("0" * 32, "1" * 12, 202611280359, "2" * 12, 3, 4)
    assert EventId.parse(f"{event.prefix}4") == event


def test_a_version_that_is_gone_is_410_and_another_request_or_no_id_422(tmp_path: Path) -> None:
    artifact.publish(tmp_path, config(ARCHITECTURE), random_tensors(ARCHITECTURE, seed=1), {})
    with serving(Settings(models_dir=tmp_path)) as (_, client):
        last = str(stream(client, **BODY)[0].id)

        def answer(last: str, **fields: Any) -> tuple[int, str]:
            response = client.post("/generate", json={**BODY, **fields, "stream": True}, headers={"Last-Event-ID": last})
            return response.status_code, "" if response.status_code == 200 else response.json()["error"]["code"]

        assert answer(last) == (200, "")
        assert answer("") == (200, ""), "an empty one is none"
        assert answer(last, start_string="Or not") == (422, "other_request")
        assert answer(last, top_k=3) == (422, "other_request")
        assert answer(last, seed=1) == (422, "other_request")
        assert answer(last[:46] + "1-" + last[48:].replace(last.split("-")[4], str(2**64))) == (422, "invalid_event_id")
        response = client.post("/generate", json=BODY, headers={"Last-Event-ID": last})
        assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_event_id")
        for broken in ("1", last[:-1] + "x", last[1:], last + "-end-end"):
            assert answer(broken) == (422, "invalid_event_id")
    artifact.publish(tmp_path, config(ARCHITECTURE), random_tensors(ARCHITECTURE, seed=2), {})
    with serving(Settings(models_dir=tmp_path)) as (_, client):
        response = client.post("/generate", json={**BODY, "stream": True}, headers={"Last-Event-ID": last})
        assert response.status_code == 410
        assert response.json()["error"]["code"] == "version_gone"
        assert "version 1" in response.json()["error"]["message"]
