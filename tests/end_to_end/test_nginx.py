"""The service behind a real nginx with its defaults: streams go through as they come, and who leaves nginx is gone here too."""

from collections.abc import Iterator

import httpx
import pytest

from tests.end_to_end.processes import needs_nginx, nginx, service
from tests.sse import Event, events
from tests.support import ENDLESS, publish, running, wait_until

pytestmark = needs_nginx

SERVER = "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {service}; }} }}"


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """(Through nginx, to the service itself.)"""
    models, folder = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("nginx")
    publish(models)
    flags = ("--models-dir", models, "--max-num-generate", ENDLESS["num_generate"])
    with service(*flags) as (_, direct), nginx(folder, lambda port: SERVER.format(port=port, service=direct.base_url)) as through:
        yield through, direct


def test_a_streams_events_are_there_while_it_is_generated_and_who_leaves_nginx_frees_the_slot(
    clients: tuple[httpx.Client, httpx.Client],
) -> None:
    through, direct = clients
    with through.stream("POST", "/generate", json=ENDLESS) as response:
        assert response.status_code == 200
        received = events(response.iter_bytes())
        assert next(received).data["text"]
        assert running(direct) == 1, "at any speed it takes hours: nothing has been held back until the end"
    wait_until(lambda: running(direct) == 0)


def test_a_long_start_string_and_a_long_answer_pass_unchanged(clients: tuple[httpx.Client, httpx.Client]) -> None:
    body = {"start_string": "To be, or not to be\n" * 500, "num_generate": 5_000, "logprobs": 3, "seed": 1}
    answers = [client.post("/generate", json=body) for client in clients]
    assert [answer.status_code for answer in answers] == [200, 200]
    through, direct = (answer.json() for answer in answers)
    for answer in (through, direct):
        del answer["id"], answer["timings"]
    assert through == direct
    refused = clients[0].post("/generate", json=body | {"temperature": -1})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "temperature")


def test_a_stream_that_was_cut_is_gone_on_with(clients: tuple[httpx.Client, httpx.Client]) -> None:
    through, direct = clients
    body = ENDLESS | {"num_generate": 2_000, "seed": 1}
    whole = direct.post("/generate", json=body | {"stream": False}).json()["text"]
    last, got = dict[str, str](), list[Event]()
    while not got or got[-1].name == "message":
        with through.stream("POST", "/generate", json=body, headers=last) as response:
            assert response.status_code == 200
            received = events(response.iter_bytes())
            got += [event for event, _ in zip(received, range(3))]  # noqa: B905 - it is cut after the third
        last = {"Last-Event-ID": str(got[-1].id)}
    assert body["start_string"] + "".join(event.data["text"] for event in got[:-1]) == whole
