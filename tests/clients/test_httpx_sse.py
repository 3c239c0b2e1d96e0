"""httpx-sse with the service's own stream."""

import json

import httpx
from httpx_sse import connect_sse

from tests.clients.processes import Server
from tests.clients.texts import LENGTH, SEED, continuation


def test_the_events_hold_the_text_and_end_with_done(server: Server) -> None:
    body = {"start_string": "ROMEO: ", "num_generate": LENGTH, "seed": SEED, "stream": True}
    with httpx.Client(timeout=60) as client, connect_sse(client, "POST", f"{server.url}/generate", json=body) as source:
        *texts, last = list(source.iter_sse())
    assert "".join(json.loads(event.data)["text"] for event in texts) == continuation(server, "ROMEO: ")
    assert last.event == "done"
