"""The OpenAPI document and /docs, which must work where there is no internet."""

import re
from typing import Any

import httpx
import pytest


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentations_assets_are_the_servers_own(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", response.text)
    assert len(assets) >= 2
    for asset in assets:
        assert asset.startswith("/"), asset
        assert client.get(asset).status_code == 200


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{method} {path}", o) for path, methods in document["paths"].items() for method, o in methods.items()]


def test_every_body_has_an_example_that_is_served(client: httpx.Client, document: dict[str, Any]) -> None:
    tried = 0
    for name, operation in operations(document):
        if "requestBody" not in operation:
            continue
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for example in document["components"]["schemas"][reference]["examples"]:
            example = {key: "tiny" if key == "model" else value for key, value in example.items()}
            response = client.post(name.partition(" ")[2], json=example)
            assert response.status_code == 200, (name, response.text)
            tried += 1
    assert tried >= 5


def test_every_operation_says_what_it_does_and_what_may_go_wrong(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation.get("description"), name
        for status, response in operation["responses"].items():
            assert response["description"], (name, status)
            if int(status) >= 400:
                assert response["content"]["application/json"]["schema"]["$ref"].endswith("ErrorBody"), (name, status)
                assert response["description"] != "Unprocessable Entity"
