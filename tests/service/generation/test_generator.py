"""The Python API gives what the service gives, without one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.generation.generator import Generator
from service.generation.request import Generation
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
    {"top_k": 0, "seed": -5},
    {"regex": "[a-z ]+[0-9]{3}"},
    {"choices": ["to be", "not to be", "{}"]},
    {"json_schema": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, "temperature": 0.5},
    {"json_object": True, "num_generate": 100},
    {"allowed_characters": "abc", "presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_same_seed_same_text_as_over_http(generator: Generator, client: httpx.Client, options: dict[str, Any]) -> None:
    body = {"num_generate": 200, "seed": 2**63 + 5, **options}
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
    assert len(generator.generate("a", num_generate=10)) == 11
    assert not generator._core.has_work


def test_a_stream_that_is_collected_while_a_step_is_prepared_harms_no_other(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector may come at any moment, in the thread that prepares the step."""
    expected = generator.generate("a", num_generate=3000, seed=1)
    dropped, kept = generator.stream("b", num_generate=10**9), generator.stream("a", num_generate=3000, seed=1)
    text = "a" + next(kept)
    streams, uniforms = [dropped], Generation.uniforms
    del dropped

    def collecting(self: Generation, count: int) -> Any:
        streams.clear()
        return uniforms(self, count)

    monkeypatch.setattr(Generation, "uniforms", collecting)
    assert text + "".join(kept) == expected
    assert not streams
    assert not generator._core.has_work


def test_a_text_that_cannot_begin_leaves_none_of_the_others_behind(generator: Generator) -> None:
    with pytest.raises(UnknownCharacters):
        generator.generate(["a", "b", "a1"])
    assert not generator._core.has_work


def test_threads_take_turns(generator: Generator) -> None:
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda _: generator.generate("To be", seed=5, num_generate=300), range(24)))
    assert set(texts) == {generator.generate("To be", seed=5, num_generate=300)}


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature: Input should be greater than or equal to 0"),
        ({"temperature": float("nan")}, "temperature: Input should be a finite number"),
        ({"top_k": 1.5}, "top_k: Input should be a valid integer"),
        ({"top_p": 1.5}, "top_p: "),
        ({"repetition_penalty": 0}, "repetition_penalty: "),
        ({"presence_penalty": float("inf")}, "presence_penalty: "),
        ({"num_generate": 0}, "num_generate: "),
        ({"num_generate": float("nan")}, "num_generate: "),
        ({"seed": 2**64}, "seed: "),
        ({"stop": [[1]]}, "stop: "),
        ({"top": 3}, "top: "),
        ({"allowed_characters": ""}, "allowed_characters: "),
        ({"allowed_characters": "a1"}, "'1' at position 1"),
        ({"regex": "a", "choices": ["b"]}, "regex and choices cannot be combined"),
        ({"regex": "a("}, "regular expression"),
        ({"regex": "aaaa", "num_generate": 3}, "the shortest text has 4 characters"),
        ({"regex": "a", "allowed_characters": "a"}, "allowed_characters cannot be combined"),
    ],
)
def test_an_option_out_of_range_is_named(generator: Generator, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generator.generate("a", **options)
    assert len(generator.generate("a", num_generate=5)) == 6, "it still works"


@pytest.mark.parametrize(("options", "message"), [({"slots": 0}, "slots is 0"), ({"backend": "x"}, "no backend 'x'")])
def test_a_generator_that_cannot_be_is_refused(models: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Generator.load(models / "tiny", **options)


def test_a_text_that_the_model_cannot_read_is_refused(generator: Generator) -> None:
    with pytest.raises(UnknownCharacters, match="'1' at position 1"):
        generator.generate("a1")
    with pytest.raises(ValueError, match="empty"):
        generator.generate("")
    with pytest.raises(ValueError, match="cannot be scored"):
        generator.score("a")


def test_a_limit_beyond_all_limits_is_no_limit(generator: Generator) -> None:
    """C counts with 32 bits."""
    with generator.stream("To be", regex="[a-z]{5}", num_generate=2**32 + 1, seed=1) as stream:
        assert len("".join(stream)) == 5
    one, other = (generator.generate("To be", top_k=top_k, num_generate=20, seed=1) for top_k in (2**32 + 1, None))
    assert one == other


def test_the_current_folder_can_be_loaded(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models / "tiny")
    assert Generator.load(".", slots=1).version.config.version == Generator.load("2", slots=1).version.config.version == 2


def test_texts_that_ctrl_c_interrupts_end_and_later_ones_are_whole(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal may come when the network is further than the text."""
    expected = generator.generate("To be", num_generate=50, seed=1)
    decode = generator.backend.decode

    def interrupted(batch: Any) -> Any:
        decode(batch)
        raise KeyboardInterrupt

    with generator.stream("To be", num_generate=10**9, seed=1) as one, generator.stream("Or", num_generate=10**9, seed=1) as other:
        next(one)
        with monkeypatch.context() as patch:
            patch.setattr(generator.backend, "decode", interrupted)
            with pytest.raises(KeyboardInterrupt):
                "".join(one)
        for stream in (one, other):
            with pytest.raises(RuntimeError, match="interrupted"):
                "".join(stream)
        with monkeypatch.context() as patch:
            patch.setattr(generator.backend, "decode", interrupted)
            with pytest.raises(KeyboardInterrupt):
                generator.score("To be")
    assert generator.generate("To be", num_generate=50, seed=1) == expected
    assert not generator._arrived


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_generates_the_same_text(models: Path) -> None:
    """The threads of the kernel do not exist there."""
    code = (
        "import os, sys; from service.generation.generator import Generator;"
        "generator = Generator.load(sys.argv[1]); print(repr(generator.generate('a', num_generate=500, seed=1)), flush=True);"
        "child = os.fork() or print(repr(generator.generate('a', num_generate=500, seed=1)), flush=True);"
        "child and os.waitpid(child, 0)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(models / "tiny")]
    one, other = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert one == other
