"""/score and /vectorize, compared with the reference and with generation."""

import math
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support import ARCHITECTURE, VOCABULARY, random_tensors, reference_logits
from trainer.vocabulary import Vocabulary

TEXT = "Whether 'tis nobler in the mind\u2028to suffer, é語🎭 "


def test_each_characters_log_probability_is_what_the_reference_says(client: httpx.Client) -> None:
    ids = Vocabulary(VOCABULARY).encode(TEXT)
    logits = reference_logits(ARCHITECTURE, random_tensors(ARCHITECTURE, seed=len("tiny")), ids[:-1].tolist())
    expected = logits[np.arange(len(ids) - 1), ids[1:]] - np.log(np.exp(logits).sum(1))
    answer = client.post("/score", json={"text": TEXT}).json()
    assert answer["logprobs"][0] is None
    assert answer["logprobs"][1:] == pytest.approx(expected.tolist(), abs=1e-4)
    assert answer["scored_characters"] == len(TEXT) - 1
    assert answer["nats_per_character"] == pytest.approx(-expected.mean(), abs=1e-5)
    assert answer["perplexity"] == pytest.approx(math.exp(-expected.mean()), rel=1e-4)


def test_the_least_likely_characters_come_first_with_their_alternatives(client: httpx.Client) -> None:
    answer = client.post("/score", json={"text": TEXT, "surprising": 5}).json()
    positions = [one["position"] for one in answer["surprising"]]
    assert positions == [1 + i for i in np.argsort(answer["logprobs"][1:], kind="stable")[:5]]
    for one in answer["surprising"]:
        assert one["character"] == TEXT[one["position"]]
        assert one["logprob"] == pytest.approx(answer["logprobs"][one["position"]])
        values = [likely["logprob"] for likely in one["likeliest"]]
        assert values == sorted(values, reverse=True)
        assert len(values) == 5
    assert client.post("/score", json={"text": TEXT, "surprising": 0}).json()["surprising"] == []


def test_a_text_longer_than_a_call_and_one_too_short_to_score(client: httpx.Client) -> None:
    long = (TEXT * 300)[:10_000]
    answer = client.post("/score", json={"text": long}).json()
    assert len(answer["logprobs"]) == 10_000
    assert answer["logprobs"][1 : len(TEXT)] == pytest.approx(client.post("/score", json={"text": TEXT}).json()["logprobs"][1:])
    answer = client.post("/score", json={"text": "a"}).json()
    assert (answer["logprobs"], answer["nats_per_character"], answer["perplexity"]) == ([None], None, None)


def test_scores_equal_the_log_probabilities_of_generation(client: httpx.Client) -> None:
    body: dict[str, Any] = {"start_string": "Hark", "num_generate": 50, "seed": 1, "temperature": 0.5, "logprobs": 3}
    answer = client.post("/generate", json=body).json()
    expected = [entry["logprob"] for entry in answer["logprobs"]]
    scored = client.post("/score", json={"text": answer["text"]}).json()["logprobs"]
    assert expected == pytest.approx(scored[4:], abs=1e-5)
    assert "".join(entry["character"] for entry in answer["logprobs"]) == answer["text"][4:]
    assert all(len(entry["likeliest"]) == 3 for entry in answer["logprobs"])


def test_unknown_characters_are_an_error_or_removed_or_replaced_by_spaces(client: httpx.Client) -> None:
    response = client.post("/score", json={"text": "a1b"})
    assert response.status_code == 422
    assert "'1' at position 1" in response.json()["error"]["message"]
    for on_unknown, read in (("skip", "ab"), ("replace", "a b")):
        assert client.post("/score", json={"text": "a1b", "on_unknown": on_unknown}).json()["text"] == read
    for on_unknown, read in (("skip", "ab"), ("replace", "a b")):
        fields = {"num_generate": 5, "seed": 1}
        one = client.post("/generate", json={"start_string": "a1b", "on_unknown": on_unknown, **fields}).json()
        assert one["start_string"] == read
        assert one["text"] == client.post("/generate", json={"start_string": read, **fields}).json()["text"]
    response = client.post("/generate", json={"start_string": "123", "on_unknown": "skip"})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "start_string")


def test_vectorize_returns_ids_and_the_positions_of_unknown_characters(client: httpx.Client) -> None:
    answer = client.post("/vectorize", json={"text": "ab1\ud83d\ude00c".encode("utf-16", "surrogatepass").decode("utf-16")}).json()
    a, b, c = Vocabulary(VOCABULARY).encode("abc").tolist()
    assert answer["ids"] == [a, b, None, None, c]
    assert answer["unknown"] == [{"character": "1", "position": 2}, {"character": "😀", "position": 3}]
    assert client.post("/vectorize", json={"text": ""}).json()["ids"] == []


def test_half_of_a_surrogate_pair_is_rejected_with_its_position(client: httpx.Client) -> None:
    response = client.post("/vectorize", content=rb'{"text": "a1\ud800"}', headers={"Content-Type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (422, "unknown_characters", "text")
    assert error["message"].endswith(r"'\ud800' at position 2")
