"""The errors of invalid requests."""

import socket
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.support import Publish, serving, wait_until


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/generate", {"start_string": "a", "num-generate": 5}, "num-generate"),
        ("/generate", {"start_string": "a", "stop": ["a", 1]}, "stop.1"),
        ("/v1/completions", {"prompt": ["a", 1]}, "prompt.1"),
        ("/generate", [], None),
    ],
)
def test_an_error_names_the_invalid_field(client: httpx.Client, path: str, body: object, param: str | None) -> None:
    response = client.post(path, json=body)
    assert response.status_code == (400 if path.startswith("/v1/") else 422)
    error = response.json()["error"]
    assert error["param"] == param
    assert param is None or error["message"].startswith(f"{param}: ")


def test_a_client_that_disconnects_while_it_sends_is_not_an_invalid_body(client: httpx.Client) -> None:
    def answered(status: int) -> float:
        lines = client.get("/metrics").text.splitlines()
        name = f'folio_http_responses_total{{status="{status}"}} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    left, refused = answered(499), answered(422)
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=60) as connection:
        head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head + b'{"start_string": ')
    wait_until(lambda: answered(499) == left + 1)
    assert answered(422) == refused


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_long_is_rejected_as_such(client: httpx.Client, declared: bool) -> None:
    body = b" " * 2_000_001
    response = client.post("/generate", content=body if declared else iter([body]), headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert response.json()["error"] == {
        "code": "body_too_long", "message": "the body is longer than this server's limit of 2,000,000 bytes",
        "type": "invalid_request_error", "param": None,
    }  # fmt: skip


def test_the_limits_are_those_of_the_settings(tmp_path: Path, publish: Publish) -> None:
    publish()
    settings = Settings(models_dir=tmp_path, max_choices=2, max_score=10, max_start_string=5, max_num_generate=20)
    completion = {"model": "tiny", "prompt": "a", "max_tokens": 1}
    with serving(settings) as (_, client):
        for path, body, code, param in (
            ("/v1/completions", {**completion, "n": 2}, None, None),
            ("/v1/completions", {**completion, "n": 3}, "too_many", "n"),
            ("/v1/completions", {**completion, "prompt": ["a"] * 3}, "too_many", "prompt"),
            ("/score", {"text": "a" * 10}, None, None),
            ("/score", {"text": "a" * 11}, "too_long", "text"),
            ("/generate", {"start_string": "a" * 5, "num_generate": 20}, None, None),
            ("/generate", {"start_string": "a" * 6, "num_generate": 20}, "too_long", "start_string"),
            ("/generate", {"start_string": "a", "num_generate": 21}, "too_long", "num_generate"),
            ("/generate", {"start_string": "a"}, None, None),  # the default is 1,000, or what the server allows
        ):
            error = client.post(path, json=body).json().get("error", {})
            assert (error.get("code"), error.get("param")) == (code, param), body
