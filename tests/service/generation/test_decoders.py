"""Each decoder against the tutorial's own loop: plain Keras, one call a character, the same uniforms, the same text."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.generation.choice import choose
from service.generation.decoder import Batch, Decoder
from service.generation.openvino_decoder import OpenVINODecoder, batch_sizes
from service.generation.request import Generation
from service.generation.scheduler import Scheduler
from service.generation.tensorflow_decoder import TensorFlowDecoder
from service.registry import candidates
from tests.support import VOCABULARY, random_tensors
from trainer import artifact, network, report
from trainer.artifact import Architecture
from trainer.vocabulary import Vocabulary

SHAKESPEARE = Path(__file__).parents[3] / "models" / "shakespeare"

MakeDecoder = type[OpenVINODecoder] | type[TensorFlowDecoder]
Asked = tuple[str, int, float, int]  # start string, characters, temperature, seed


@pytest.fixture(params=[OpenVINODecoder, TensorFlowDecoder])
def make(request: pytest.FixtureRequest) -> MakeDecoder:
    return request.param  # type: ignore[no-any-return]


def generate(decoder: Decoder, vocabulary: Vocabulary, asked: list[Asked], longest: int = 16) -> list[str]:
    """The texts of requests that share the decoder's slots, waiting for one where there are more of them."""
    scheduler = Scheduler(decoder.slots, len(asked))
    generations = [Generation(vocabulary.encode(start), count, temperature, seed) for start, count, temperature, seed in asked]
    texts = {generation: start for generation, (start, *_) in zip(generations, asked, strict=True)}
    for generation in generations:
        scheduler.add(generation)
    while (batch := scheduler.schedule(longest)) is not None:
        for generation, ids in scheduler.update(decoder.decode(batch)):
            texts[generation] += vocabulary.decode(ids)
    return [texts[generation] for generation in generations]


def made(cell: str, layers: int = 1) -> Architecture:
    return Architecture(cell=cell, layers=layers, units=24, embedding=8, vocabulary=VOCABULARY)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_text_is_the_tutorials(make: MakeDecoder, cell: str, layers: int) -> None:
    architecture = made(cell, layers)
    vocabulary, tensors = Vocabulary(VOCABULARY), random_tensors(architecture)
    single = network.build(architecture, batch_size=1)
    network.load(single, tensors)
    asked = ("ROMEO: ", 300, 0.8, 12)
    start, characters, temperature, seed = asked
    expected = report.sample(single, vocabulary, start, characters=characters, temperature=temperature, seed=seed)
    assert len(set(expected)) > 20
    assert generate(make(architecture, tensors, 1), vocabulary, [asked]) == [expected]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_requests_that_share_slots_get_what_they_get_alone(make: MakeDecoder, cell: str) -> None:
    architecture = made(cell, 2)
    vocabulary, tensors = Vocabulary(VOCABULARY), random_tensors(architecture)
    rng = np.random.default_rng(0)
    asked = [
        ("".join(rng.choice(VOCABULARY, rng.integers(1, 60))), int(rng.integers(1, 80)), [0.0, 0.5, 1.0, 2.0][i % 4], i)
        for i in range(13)
    ]
    decoder = make(architecture, tensors, 5)
    together = generate(decoder, vocabulary, asked)
    assert together == [generate(decoder, vocabulary, [one])[0] for one in asked]
    assert together == generate(decoder, vocabulary, asked, longest=3)


def test_a_draw_inverts_the_cdf(make: MakeDecoder) -> None:
    """At uniforms through [0, 1) the characters come in id order, each for a span as wide as its probability."""
    architecture = made("gru")
    tensors = random_tensors(architecture)
    count = 4096
    batch = Batch(
        slots=np.arange(count, dtype=np.int32),
        fresh=np.ones(count, bool),
        inputs=np.full(count, 5, np.int32),
        forced=np.full((1, count), -1, np.int32),
        uniforms=((np.arange(count) + 0.5) / count).astype(np.float32)[None],
        temperatures=np.full(count, 0.7),
    )
    drawn = make(architecture, tensors, count).decode(batch)[0]
    assert (np.diff(drawn) >= 0).all()

    single = network.build(architecture, batch_size=1)
    network.load(single, tensors)
    logits = single(np.array([[5]], np.int32))[0, 0].numpy().astype(np.float64) / 0.7
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=len(VOCABULARY)) / count, probabilities, atol=1.5 / count)


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1e-38, 1e-3, 1e300])
def test_any_temperature_draws_characters_and_the_smallest_take_the_likeliest(make: MakeDecoder, temperature: float) -> None:
    architecture = made("gru")
    vocabulary, decoder = Vocabulary(VOCABULARY), make(made("gru"), random_tensors(architecture), 1)
    (text,) = generate(decoder, vocabulary, [("a", 200, temperature, 1)])
    assert len(text) == 201
    (other,) = generate(decoder, vocabulary, [("a", 200, temperature, 2)])
    assert (text == other) == (temperature <= 1e-3)


def test_sixty_four_at_once_on_the_shipped_model_get_bit_for_bit_what_they_get_alone() -> None:
    """The network's real size, where a product is cut into blocks that could depend on the batch; not one character may differ."""
    version = artifact.read(candidates(SHAKESPEARE)[0])
    vocabulary, decoder = Vocabulary(version.config.vocabulary), OpenVINODecoder(version.config, version.tensors, 64)
    asked = [(f"{'ROMEO: JULIET:'[i % 13 :]}", 20 + i % 20, 0.5 + i / 64, i) for i in range(64)]
    assert generate(decoder, vocabulary, asked) == [generate(decoder, vocabulary, [one])[0] for one in asked]


@pytest.mark.parametrize(("slots", "sizes"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (64, [1, 2, 4, 8, 16, 32, 64])])
def test_batches_of_any_size_have_a_graph_less_than_twice_as_large(slots: int, sizes: list[int]) -> None:
    assert batch_sizes(slots) == sizes


def test_a_large_vocabulary_is_no_fault(make: MakeDecoder) -> None:
    characters = [chr(0x4E00 + i) for i in range(5000)]
    architecture = Architecture(cell="gru", layers=1, units=16, embedding=4, vocabulary=characters)
    texts = generate(make(architecture, random_tensors(architecture), 2), Vocabulary(characters), [("\u4e00", 50, 1.0, 3)])
    assert len(set(texts[0])) > 10


@pytest.mark.skipif(choose() != "openvino", reason="this machine has a GPU")
def test_without_a_gpu_a_version_is_served_with_no_tensorflow_and_no_telemetry_in_the_process() -> None:
    program = (
        "import sys; from pathlib import Path; from service.app import create_app; from service.generation.choice import *;"
        "from trainer import artifact; version = artifact.read(Path(sys.argv[1]));"
        "open_decoder(version, choose(), slots=2, chunk=4);"
        "print(*(name for name in ('openvino', 'openvino_telemetry', 'tensorflow') if sys.modules.get(name)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program, candidates(SHAKESPEARE)[0]], text=True) == "openvino\n"
