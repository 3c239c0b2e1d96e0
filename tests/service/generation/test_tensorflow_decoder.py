"""The decoder against the tutorial's own loop: plain Keras, one call a character, the same uniforms, the same text."""

import numpy as np
import pytest

from service.generation.decoder import Batch
from service.generation.request import Generation
from service.generation.scheduler import Scheduler
from service.generation.tensorflow_decoder import TensorFlowDecoder
from tests.support import VOCABULARY, random_tensors
from trainer import network, report
from trainer.artifact import Architecture
from trainer.vocabulary import Vocabulary

Asked = tuple[str, int, float, int]  # start string, characters, temperature, seed


def generate(decoder: TensorFlowDecoder, vocabulary: Vocabulary, asked: list[Asked], longest: int = 16) -> list[str]:
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
def test_the_text_is_the_tutorials(cell: str, layers: int) -> None:
    architecture = made(cell, layers)
    vocabulary, tensors = Vocabulary(VOCABULARY), random_tensors(architecture)
    single = network.build(architecture, batch_size=1)
    network.load(single, tensors)
    asked = ("ROMEO: ", 300, 0.8, 12)
    start, characters, temperature, seed = asked
    expected = report.sample(single, vocabulary, start, characters=characters, temperature=temperature, seed=seed)
    assert len(set(expected)) > 20
    assert generate(TensorFlowDecoder(architecture, tensors, 1), vocabulary, [asked]) == [expected]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_requests_that_share_slots_get_what_they_get_alone(cell: str) -> None:
    architecture = made(cell, 2)
    vocabulary, tensors = Vocabulary(VOCABULARY), random_tensors(architecture)
    rng = np.random.default_rng(0)
    asked = [
        ("".join(rng.choice(VOCABULARY, rng.integers(1, 60))), int(rng.integers(1, 80)), [0.0, 0.5, 1.0, 2.0][i % 4], i)
        for i in range(13)
    ]
    decoder = TensorFlowDecoder(architecture, tensors, 5)
    together = generate(decoder, vocabulary, asked)
    assert together == [generate(decoder, vocabulary, [one])[0] for one in asked]
    assert together == generate(decoder, vocabulary, asked, longest=3)


def test_a_draw_inverts_the_cdf() -> None:
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
    drawn = TensorFlowDecoder(architecture, tensors, count).decode(batch)[0]
    assert (np.diff(drawn) >= 0).all()

    single = network.build(architecture, batch_size=1)
    network.load(single, tensors)
    logits = single(np.array([[5]], np.int32))[0, 0].numpy().astype(np.float64) / 0.7
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=len(VOCABULARY)) / count, probabilities, atol=1.5 / count)


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1e-38, 1e-3, 1e300])
def test_any_temperature_draws_characters_and_the_smallest_take_the_likeliest(temperature: float) -> None:
    architecture = made("gru")
    vocabulary, decoder = Vocabulary(VOCABULARY), TensorFlowDecoder(made("gru"), random_tensors(architecture), 1)
    (text,) = generate(decoder, vocabulary, [("a", 200, temperature, 1)])
    assert len(text) == 201
    (other,) = generate(decoder, vocabulary, [("a", 200, temperature, 2)])
    assert (text == other) == (temperature <= 1e-3)
