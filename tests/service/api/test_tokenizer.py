"""/tokenize, /detokenize and /tokenizer_info, in vLLM's shapes."""

from typing import Any

import httpx
import pytest

TEXT = "Hark! é語🎭\u2028"


def tokenized(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/tokenize", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_a_text_becomes_tokens_and_again_the_text(client: httpx.Client) -> None:
    found = tokenized(client, prompt=TEXT, add_special_tokens=True, return_token_strs=True)
    assert found["tokens"] == client.post("/vectorize", json={"text": TEXT}).json()["ids"]
    assert (found["count"], found["token_strs"], found["max_model_len"]) == (len(TEXT), list(TEXT), 10_000)
    assert tokenized(client, prompt=TEXT)["token_strs"] is None
    assert client.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"prompt": TEXT}


@pytest.mark.parametrize(
    "more", [{}, {"continue_final_message": True}, {"add_generation_prompt": False}, {"continue_final_message": False}]
)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_chat_has_as_many_tokens_as_its_reply_reads(client: httpx.Client, role: str, more: dict[str, bool]) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": role, "content": "Who art 漢 thou?"}]
    found = tokenized(client, messages=messages, **more)
    reply = client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 1, **more}).json()
    assert found["count"] == len(found["tokens"]) == reply["usage"]["prompt_tokens"]


def test_a_prompt_has_as_many_tokens_as_its_completion_reads(client: httpx.Client) -> None:
    found = tokenized(client, prompt="漢 Hark")
    assert found["count"] == client.post("/v1/completions", json={"prompt": "漢 Hark"}).json()["usage"]["prompt_tokens"]
    assert client.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"prompt": "  Hark"}
    assert tokenized(client, prompt="漢 Hark", on_unknown="skip")["count"] == 5


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, None),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, None),
        ("/tokenize", {"prompt": "a" * 100_001}, "prompt"),
        ("/tokenize", {"messages": [{"role": "nobody", "content": "a"}]}, "messages.0.role"),
        ("/detokenize", {"tokens": [0, 10_000]}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_what_cannot_be_converted_is_refused(client: httpx.Client, path: str, body: dict[str, Any], param: str | None) -> None:
    response = client.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (422, param)


def test_the_tokenizers_ends_are_characters_of_the_model(client: httpx.Client) -> None:
    info = client.get("/tokenizer_info").json()
    assert info == client.get("/models/tiny/tokenizer_config.json").json()
    assert tokenized(client, prompt=info["eos_token"])["count"] == 1


def test_the_version_is_that_of_the_package(client: httpx.Client) -> None:
    assert client.get("/version").json() == {"version": client.get("/openapi.json").json()["info"]["version"]}
