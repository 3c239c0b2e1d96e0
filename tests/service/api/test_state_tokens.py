"""A text continued from a state token equals that of one long request. Foreign tokens are rejected."""

import base64
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.support import ARCHITECTURE, config, random_tensors, serving, stream
from trainer import artifact
from trainer.artifact import Architecture

pytestmark = pytest.mark.slow

SECRET = "only for this test, thirty-two characters"
DEEP = Architecture(cell="lstm", layers=2, units=16, embedding=8, vocabulary=ARCHITECTURE.vocabulary)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[httpx.Client]]:
    """Two servers with one secret; their calls are cut in different places, and one keeps no prompts."""
    models = tmp_path_factory.mktemp("models")
    artifact.publish(models, config(ARCHITECTURE, "tiny"), random_tensors(ARCHITECTURE, seed=1), {})
    artifact.publish(models, config(DEEP, "deep"), random_tensors(DEEP, seed=2), {})
    one, two = (
        Settings(
            models_dir=models,
            default_model="tiny",
            secret=SECRET,
            chunk=chunk,
            call_ms=1000,
            prompt_cache_mb=cache,
        )
        for chunk, cache in ((5, 0), (64, 16))
    )
    with serving(one) as (_, first), serving(two) as (_, second):
        yield [first, second]


def generated(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("model", ["tiny", "deep"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0}, {"top_k": 5, "temperature": 0.7, "logprobs": 0}])
def test_parts_from_token_to_token_are_the_text_at_a_stretch(
    replicas: list[httpx.Client], model: str, sampling: dict[str, Any]
) -> None:
    fields = {"model": model, **sampling}
    whole = generated(replicas[0], start_string="Whether 'tis", seed=11, num_generate=500, **fields)["text"]
    for cuts in ([0, 200, 500], [0, 1, 2, 3, 64, 65, 129, 500]):
        text, state = "Whether 'tis", None
        for i, (start, end) in enumerate(pairwise(cuts)):
            begin = {"start_string": text, "seed": 11} if state is None else {"state": state}
            answer = generated(replicas[i % 2], **begin, num_generate=end - start, return_state=True, **fields)
            assert state is None or answer["start_string"] == ""
            text, state = text + answer["text"].removeprefix(answer["start_string"]), answer["state"]
            assert answer["seed"] == 11
        assert text == whole


def test_a_text_ended_by_a_stop_string_continues_before_it(replicas: list[httpx.Client]) -> None:
    whole = generated(replicas[0], start_string="a", seed=3, num_generate=400)["text"][1:]
    for start in (1, 63, 200, 396):
        stop = whole[start : start + 4]
        first = generated(replicas[1], start_string="a", seed=3, num_generate=400, stop=stop, return_state=True)
        length = first["usage"]["generated_characters"]
        rest = generated(replicas[0], state=first["state"], num_generate=400 - length)
        assert first["text"][1:] + rest["text"] == whole


def test_a_start_string_with_a_state_is_appended_first(replicas: list[httpx.Client]) -> None:
    first = generated(replicas[0], start_string="To be", seed=4, num_generate=30, return_state=True)
    for stop in ([], ["!!"]):
        second = generated(replicas[1], state=first["state"], start_string=" or not", seed=9, num_generate=50, stop=stop)
        expected = generated(replicas[0], start_string=first["text"] + " or not", seed=9, num_generate=50, stop=stop)
        assert first["text"] + second["text"] == expected["text"]


def test_time_that_ends_the_reading_of_a_prompt_loses_nothing_of_it(replicas: list[httpx.Client]) -> None:
    prompt = "It is a tale told by an idiot. " * 300
    whole = generated(replicas[0], start_string=prompt, seed=6, num_generate=20)["text"]
    first = generated(replicas[0], start_string=prompt, seed=6, num_generate=20, max_time_ms=1, return_state=True)
    got = first["usage"]["generated_characters"]
    assert first["finish_reason"] == "time"
    assert got < 20
    rest = generated(replicas[0], state=first["state"], num_generate=20 - got)
    assert first["text"] + rest["text"] == whole


def test_penalties_count_from_the_token_wherever_calls_are_cut(replicas: list[httpx.Client]) -> None:
    first = generated(replicas[0], start_string="To be", num_generate=90, seed=3, return_state=True)
    other = generated(replicas[1], start_string="To be", num_generate=90, seed=3, return_state=True)
    body = {"num_generate": 100, "seed": 3, "repetition_penalty": 1.9}
    one, two = (generated(replicas[0], state=answer["state"], **body)["text"] for answer in (first, other))
    assert one == two


def test_a_text_whose_end_was_held_back_continues(replicas: list[httpx.Client]) -> None:
    """It might be the beginning of a stop string to its end, so the token holds all of it."""
    body = {"start_string": "a", "num_generate": 25_000, "seed": 1, "allowed_characters": "a", "stop": "ab", "return_state": True}
    state = generated(replicas[0], **body)["state"]
    assert len(generated(replicas[1], state=state, num_generate=5)["text"]) == 5


def test_a_stream_ends_with_a_token_and_continues_from_one(replicas: list[httpx.Client]) -> None:
    first = generated(replicas[0], start_string="a", seed=3, num_generate=40, return_state=True)
    *texts, done = stream(replicas[1], state=first["state"], num_generate=40, return_state=True)
    whole = generated(replicas[0], start_string="a", seed=3, num_generate=120)["text"]
    last = generated(replicas[0], state=done.data["state"], num_generate=40)
    assert first["text"] + "".join(event.data["text"] for event in texts) + last["text"] == whole


def test_forged_foreign_and_truncated_tokens_are_refused(replicas: list[httpx.Client]) -> None:
    token = generated(replicas[0], start_string="a", num_generate=3, return_state=True)["state"]
    data = bytearray(base64.urlsafe_b64decode(token))
    forgeries = [token[:-1], token[:-4], token[4:], token[::-1], "x", "é", "\ud800", "=" * 8, token + "AAAA"]
    for place in (0, 31, 32, 40, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        forgeries.append(base64.urlsafe_b64encode(changed).decode())
    for forged in forgeries:
        body = httpx.Request("POST", "http://x", json={"state": forged.encode("utf-8", "backslashreplace").decode()})
        response = replicas[0].post("/generate", content=body.content, headers={"Content-Type": "application/json"})
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (422, "invalid_state", "state")
    response = replicas[0].post("/generate", json={"state": token, "model": "deep"})
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_state")
    assert "tiny" in response.json()["error"]["message"]


def test_a_token_ends_with_its_version_and_with_its_servers_secret(tmp_path: Path) -> None:
    artifact.publish(tmp_path, config(ARCHITECTURE), random_tensors(ARCHITECTURE, seed=1), {})
    with serving(Settings(models_dir=tmp_path, secret=SECRET)) as (_, client):
        token = generated(client, start_string="a", num_generate=3, return_state=True)["state"]
    with serving(Settings(models_dir=tmp_path, secret=SECRET[::-1])) as (_, client):
        assert client.post("/generate", json={"state": token}).status_code == 422
    artifact.publish(tmp_path, config(ARCHITECTURE), random_tensors(ARCHITECTURE, seed=2), {})
    with serving(Settings(models_dir=tmp_path, secret=SECRET)) as (_, client):
        response = client.post("/generate", json={"state": token})
        assert (response.status_code, response.json()["error"]["code"]) == (410, "version_gone")
