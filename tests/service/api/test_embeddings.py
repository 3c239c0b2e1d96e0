"""/v1/embeddings, compared with the reference step, bit for bit."""

import base64
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.generation import reference
from service.generation.quantized import quantize
from service.settings import Settings
from tests.support import ARCHITECTURE, ENDLESS, VOCABULARY, Gate, Publish, random_tensors, serving, wait_until
from trainer.artifact import Architecture
from trainer.vocabulary import Vocabulary

TEXT = "Whether 'tis nobler in the mind\u2028to suffer, é語🎭"


def state_after(text: str, architecture: Architecture, seed: int) -> NDArray[np.float32]:
    """All state vectors of the reference step after the text: [vectors, units]."""
    network = quantize(architecture, random_tensors(architecture, seed))
    state = np.zeros((1, *network.state_shape), np.float32)
    for character in Vocabulary(architecture.vocabulary).encode(text):
        state, _ = reference.step(network, state, np.array([character], np.int32), np.zeros(1, np.bool_))
    last: NDArray[np.float32] = state[0]
    return last


def scaled(vector: NDArray[np.float32]) -> list[float]:
    length = math.sqrt(math.fsum(float(value) ** 2 for value in vector))
    return [float(np.float32(float(value) / length)) for value in vector]


def embedded(client: httpx.Client, given: Any, **fields: Any) -> list[list[float]]:
    response = client.post("/v1/embeddings", json={"input": given, **fields})
    assert response.status_code == 200, response.text
    assert [one["index"] for one in response.json()["data"]] == list(range(len(response.json()["data"])))
    return [one["embedding"] for one in response.json()["data"]]


def test_an_embedding_is_the_state_after_the_last_character_with_length_1(client: httpx.Client) -> None:
    expected = scaled(state_after(TEXT, ARCHITECTURE, len("tiny"))[0])
    assert embedded(client, TEXT, model="tiny") == [expected]
    assert math.hypot(*expected) == pytest.approx(1)
    assert embedded(client, TEXT, model="tiny") == [expected], "also from the prompt cache"


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9, 17, 500, 511, 512, 513, 1024, 1025, 10_000])
def test_texts_of_all_lengths_are_read_to_their_ends(client: httpx.Client, length: int) -> None:
    text = (TEXT * 300)[:length]
    assert embedded(client, text, model="tiny") == [scaled(state_after(text, ARCHITECTURE, len("tiny"))[0])]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_of_several_layers_it_is_the_last_ones_h(tmp_path: Path, publish: Publish, cell: Any) -> None:
    architecture = ARCHITECTURE.model_copy(update={"cell": cell, "layers": 2})
    publish(architecture=architecture)
    h = 1 if cell == "gru" else 2  # an LSTM's states: h and c of the first layer, h and c of the second
    with serving(Settings(models_dir=tmp_path, prompt_cache_mb=0)) as (_, client):
        assert embedded(client, TEXT) == [scaled(state_after(TEXT, architecture, 0)[h])]


def test_the_vector_is_the_same_alone_among_others_and_beside_streams(client: httpx.Client) -> None:
    texts = [TEXT[: i + 1] for i in range(7)]
    alone = [embedded(client, text)[0] for text in texts]
    with client.stream("POST", "/generate", json=ENDLESS) as response, ThreadPoolExecutor(3) as pool:
        received = response.iter_raw()  # kept: httpx closes the connection when its iterator is dropped
        next(received)
        assert embedded(client, texts) == alone
        assert list(pool.map(lambda text: embedded(client, text)[0], texts)) == alone


def test_many_texts_do_not_fill_the_queue_and_are_not_refused_beside_others(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    limit = ENDLESS["num_generate"]
    with serving(Settings(models_dir=tmp_path, slots=3, queue_limit=10, max_num_generate=limit)) as (app, client):
        engine, texts = app.state.registry.get("tiny").engine, [TEXT[: 3 * i + 1] for i in range(13)]
        alone = [embedded(client, text)[0] for text in texts]
        with client.stream("POST", "/generate", json=ENDLESS) as response:
            received = response.iter_raw()  # kept: httpx closes the connection when its iterator is dropped
            next(received)
            assert embedded(client, texts) == alone, "as many as slots and places in the queue, of which one is in use"
        wait_until(lambda: engine.running == 0)
        gate = Gate(engine.backend, monkeypatch, permits=0)
        with ThreadPoolExecutor(2) as pool:
            many = pool.submit(embedded, client, texts)
            wait_until(lambda: engine.running == 3)
            assert engine.waiting == 0
            other = pool.submit(client.post, "/generate", json={"start_string": "a", "num_generate": 1})
            wait_until(lambda: engine.waiting == 1)
            gate.open()
            assert (other.result().status_code, many.result()) == (200, alone)


def test_tokens_are_taken_in_place_of_texts(client: httpx.Client) -> None:
    ids = Vocabulary(VOCABULARY).encode(TEXT).tolist()
    (expected,) = embedded(client, TEXT)
    assert embedded(client, ids) == [expected]
    assert embedded(client, [ids, ids[:5]]) == [expected, *embedded(client, TEXT[:5])]


def test_dimensions_are_the_first_ones_scaled_again(client: httpx.Client) -> None:
    state = state_after(TEXT, ARCHITECTURE, len("tiny"))[0]
    assert embedded(client, TEXT, model="tiny", dimensions=5) == [scaled(state[:5])]
    assert embedded(client, TEXT, dimensions=ARCHITECTURE.units) == embedded(client, TEXT)
    refused = client.post("/v1/embeddings", json={"input": TEXT, "dimensions": ARCHITECTURE.units + 1})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "dimensions")


def test_base64_holds_the_same_numbers(client: httpx.Client) -> None:
    (packed,) = embedded(client, TEXT, encoding_format="base64")
    assert isinstance(packed, str)
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == embedded(client, TEXT)[0]


def test_usage_and_the_log_count_what_was_read(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/healthz")  # is answered after the line of the request before is written
    caplog.set_level("INFO")
    answer = client.post("/v1/embeddings", json={"input": ["Hark", "語漢"], "on_unknown": "skip"}).json()
    wait_until(lambda: [record for record in caplog.records if hasattr(record, "prompt_characters")])
    (line,) = [vars(record) for record in caplog.records if hasattr(record, "prompt_characters")]
    assert line["prompt_characters"] == 5
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert (answer["object"], answer["model"]) == ("list", "tiny")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "input"),
        ({"input": ""}, "invalid_value", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": [[0], []]}, "invalid_value", "input.1"),
        ({"input": [0, 10_000]}, "invalid_value", "input"),
        ({"input": "漢", "on_unknown": "skip"}, "invalid_value", "input"),
        ({"input": "a" * 10_001}, "context_length_exceeded", "input"),
        ({"input": ["a"] * 13}, "too_many", "input"),
        ({"input": "a", "encoding_format": "int8"}, "invalid_value", "encoding_format"),
    ],
)
def test_what_cannot_be_embedded_is_refused_with_the_reason(
    client: httpx.Client, body: dict[str, Any], code: str, param: str
) -> None:
    response = client.post("/v1/embeddings", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)


def test_more_texts_than_slots_wait_for_their_turn(client: httpx.Client) -> None:
    texts = [TEXT[: i + 1] for i in range(12)]
    assert embedded(client, texts) == [embedded(client, text)[0] for text in texts]
