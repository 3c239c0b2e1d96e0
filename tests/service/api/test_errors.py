"""What a caller is told of a request that went wrong."""

import httpx
import pytest


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/generate", {"start_string": "a", "num-generate": 5}, "num-generate"),
        ("/generate", {"start_string": "a", "stop": ["a", 1]}, "stop.1"),
        ("/v1/completions", {"prompt": ["a", 1]}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a", "x-y": 1}]}, "messages.0"),
        ("/generate", [], None),
    ],
)
def test_the_field_that_is_wrong_is_named(client: httpx.Client, path: str, body: object, param: str | None) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["param"] == param
    assert param is None or error["message"].startswith(f"{param}: ")
