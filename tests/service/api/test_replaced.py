"""What is left of a version that another has replaced, while somebody still reads what it generated."""

import weakref
from pathlib import Path

import pytest

from service.settings import Settings
from tests.sse import events
from tests.support import Publish, serving, wait_until


@pytest.mark.slow
def test_a_slow_stream_does_not_keep_a_replaced_versions_weights(tmp_path: Path, publish: Publish) -> None:
    publish()
    with serving(Settings(models_dir=tmp_path, watch=0.05, slots=2)) as (app, client):
        backend = weakref.ref(app.state.registry.get(None).engine.backend)
        body = {"start_string": "a", "num_generate": 1000, "stream": True, "pace": 1}
        with client.stream("POST", "/generate", json=body) as response:
            received = events(response.iter_bytes())
            assert next(received).data["text"]
            publish()
            wait_until(lambda: backend() is None)
            assert next(received).data["text"], "it goes on all the same"
