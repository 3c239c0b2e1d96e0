"""The Python API gives what the service gives, without one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.generation.generator import Generator
from service.settings import Settings
from tests.support import ARCHITECTURE, publish, serving
from trainer.artifact import ArtifactError
from trainer.vocabulary import UnknownCharacters


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        publish(folder, seed=seed)
    return folder


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[httpx.Client]:
    with serving(Settings(models_dir=models)) as (_, client):
        yield client


@pytest.fixture
def generator(models: Path) -> Generator:
    return Generator.load(models / "tiny", slots=2)


OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.8},
    {"temperature": 0, "num_generate": 3},
    {"top_k": 5, "top_p": 0.9, "min_p": 0.01, "stop": ["qz", "e"]},
    {"allowed_characters": "abc", "presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_same_seed_same_text_as_over_http(generator: Generator, client: httpx.Client, options: dict[str, Any]) -> None:
    body = {"num_generate": 200, **options, "seed": 2**63 + 5}
    answer = client.post("/generate", json={"start_string": "To be", **body}).json()
    assert generator.generate("To be", **body) == answer["text"]
    with generator.stream("To be", **body) as stream:
        assert "To be" + "".join(stream) == answer["text"]
    assert (stream.finish_reason, stream.num_generated) == (answer["finish_reason"], answer["usage"]["generated_characters"])


def test_texts_that_are_generated_together_are_those_generated_alone(generator: Generator) -> None:
    starts = ["a", "To be", "é", "a", "語!"]
    together = generator.generate(starts, seed=3, num_generate=150)
    assert together == [generator.generate(start, seed=3, num_generate=150) for start in starts]


def test_streams_may_be_read_in_turns_and_ended_early(generator: Generator) -> None:
    expected = {start: generator.generate(start, seed=7, num_generate=20_000) for start in ("a", "b", "c")}
    streams = {start: generator.stream(start, seed=7, num_generate=20_000) for start in expected}
    texts = {start: start + next(stream) for start, stream in streams.items() if start != "b"}
    streams["b"].close()
    for start in texts:
        texts[start] += "".join(streams[start])
        assert texts[start] == expected[start]
    assert (list(streams["b"]), streams["b"].finish_reason) == ([], "cancelled")
    assert not generator._arrived, "nothing is kept of texts that have ended"


def test_a_stream_that_is_dropped_frees_its_slot(generator: Generator) -> None:
    for _ in range(5):  # there are two slots
        next(generator.stream("a", num_generate=10**9))
    assert not generator._core.has_work
    assert len(generator.generate("a", num_generate=10)) == 11


def test_without_a_seed_each_text_is_another_and_the_stream_says_its_seed(generator: Generator) -> None:
    streams = [generator.stream("a", num_generate=100) for _ in range(2)]
    texts = ["".join(stream) for stream in streams]
    assert texts[0] != texts[1]
    assert "a" + texts[0] == generator.generate("a", num_generate=100, seed=streams[0].seed)


def test_a_score_is_that_of_the_service(generator: Generator, client: httpx.Client) -> None:
    answer = client.post("/score", json={"text": "To be, or not to be"}).json()
    score = generator.score("To be, or not to be")
    assert [None, *score.logprobs.tolist()] == answer["logprobs"]
    assert score.nats_per_character == pytest.approx(answer["nats_per_character"], rel=1e-12)


def test_a_folder_of_a_model_or_of_a_version_is_loaded(models: Path, tmp_path: Path) -> None:
    assert Generator.load(str(models / "tiny")).version.config.version == 2
    assert Generator.load(models / "tiny" / "1").version.config.version == 1
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "absent", "no such folder"), (tmp_path / "empty", "holds no published version")):
        with pytest.raises(ArtifactError, match=message):
            Generator.load(path)


def test_a_damaged_version_is_passed_over_as_the_service_does(tmp_path: Path) -> None:
    for seed in (1, 2):
        publish(tmp_path, seed=seed, architecture=ARCHITECTURE)
    (tmp_path / "tiny" / "2" / "weights.safetensors").write_bytes(b"damaged")
    assert Generator.load(tmp_path / "tiny").version.config.version == 1
    (tmp_path / "tiny" / "1" / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tiny/2"):
        Generator.load(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature is -1; it must be finite and at least 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"num_generate": 0}, "num_generate is 0"),
        ({"allowed_characters": ""}, "empty"),
        ({"allowed_characters": "a1"}, "'1' at position 1"),
    ],
)
def test_an_option_out_of_range_is_named(generator: Generator, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generator.generate("a", **options)


def test_a_text_that_the_model_cannot_read_is_refused(generator: Generator) -> None:
    with pytest.raises(UnknownCharacters, match="'1' at position 1"):
        generator.generate("a1")
    with pytest.raises(ValueError, match="empty"):
        generator.generate("")
    with pytest.raises(ValueError, match="cannot be scored"):
        generator.score("a")
