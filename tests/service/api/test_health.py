import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.generation.backends import open_backend
from service.generation.engine import Engine
from service.settings import Settings
from tests.support import Gate, Publish, run_server, serving, wait_until


def test_ready_only_when_the_models_are_loaded_and_warm(tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    publish()
    go_on = threading.Event()

    def slow(*arguments: Any, **options: Any) -> Any:
        go_on.wait(60)
        return open_backend(*arguments, **options)

    monkeypatch.setattr("service.app.open_backend", slow)
    app = create_app(Settings(models_dir=tmp_path))
    with run_server(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        assert client.get("/healthz").status_code == 200
        for response in (client.get("/readyz"), client.post("/generate", json={"start_string": "a"})):
            assert response.status_code == 503
            assert response.headers["retry-after"]
            assert response.json()["error"] == {
                "code": "not_ready", "message": "models are being loaded", "type": "server_error", "param": None,
            }  # fmt: skip
        go_on.set()
        wait_until(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/generate", json={"start_string": "a", "num_generate": 5}).status_code == 200


def test_without_a_model_it_lives_and_says_why_it_is_not_ready(tmp_path: Path) -> None:
    app = create_app(Settings(models_dir=tmp_path / "absent"))
    with run_server(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        wait_until(lambda: "being loaded" not in client.get("/readyz").text)
        response = client.get("/readyz")
        assert response.status_code == 503
        assert "absent: No such file or directory" in response.json()["error"]["message"]
        assert client.get("/healthz").json() == {"status": "ok"}


def test_while_a_call_does_not_return_it_is_not_alive_and_nobody_waits(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish()
    monkeypatch.setattr("service.app.Engine", partial(Engine, iteration_timeout=0.3))
    body = {"start_string": "a", "num_generate": 5}
    with serving(Settings(models_dir=tmp_path)) as (app, client), ThreadPoolExecutor(2) as pool:
        gate = Gate(app.state.registry.get("tiny").engine.backend, monkeypatch, permits=0)
        waiting = [pool.submit(client.post, "/generate", json=body | {"stream": streamed}) for streamed in (False, True)]
        answers = [one.result() for one in waiting]
        assert "engine_stopped" in answers[0].text
        assert "has not returned" in answers[1].text
        for path in ("/healthz", "/readyz"):
            response = client.get(path)
            assert (response.status_code, "has not returned" in response.json()["error"]["message"]) == (503, True)
        refused = client.post("/generate", json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert caplog.text.count("the backend has not returned") == 1
        app.state.registry.get("tiny").engine._tick = 60  # the last request may take its time
        gate.open()
        wait_until(lambda: client.get("/healthz").status_code == 200)
        assert client.post("/generate", json=body).status_code == 200
