"""The `native` backend against exact distributions; `reference` and `cuda` give the same bits (test_exact.py, gpu/)."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.generation.backend import MAX_TOP_LOGPROBS, Backend, Batch, Decoded
from service.generation.backends import Unsupported, choose, load_library
from service.generation.core import EngineCore
from service.generation.cuda.device import has_device
from service.generation.exact import ExactBackend
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from service.models_folder import candidates
from tests.support import VOCABULARY, random_tensors, reference_logits, run_core
from trainer import artifact
from trainer.artifact import Architecture, Tensors
from trainer.vocabulary import Vocabulary

SHAKESPEARE = Path(__file__).parents[3] / "models" / "shakespeare"


def native(architecture: Architecture, tensors: Tensors, slots: int) -> Backend:
    return ExactBackend(architecture, tensors, slots, load_library())


@dataclass
class Asked:
    start: str
    characters: int
    seed: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None


def generate(backend: Backend, vocabulary: Vocabulary, asked: list[Asked], longest: int = 16, prompt_cache: int = 0) -> list[str]:
    """The texts of requests that share the backend's slots, waiting for one where there are more of them."""
    core = EngineCore(backend, queue_limit=len(asked), max_steps=longest, prompt_cache=prompt_cache)
    generations = []
    for one in asked:
        stop = [vocabulary.encode(string).tolist() for string in one.stop]
        prompt = Prompt(vocabulary.encode(one.start))
        generations.append(Generation(prompt, one.characters, one.sampling, one.seed, stop=stop, top_logprobs=one.top_logprobs))
    chunks = run_core(core, *generations).values()
    return [one.start + vocabulary.decode(chunk.characters) for one, chunk in zip(asked, chunks, strict=True)]


def step(backend: Backend, uniforms: NDArray[np.floating[Any]], sampling: Sampling, character: int = 5, **options: Any) -> Decoded:
    """One step of as many fresh slots as there are uniforms, all from the same character."""
    count = len(uniforms)
    return backend.decode(
        Batch(
            slots=np.arange(count, dtype=np.int32),
            starts=dict.fromkeys(range(count)),
            inputs=np.full(count, character, np.int32),
            forced=np.full((1, count), -1, np.int32),
            uniforms=uniforms.astype(np.float32)[None],
            sampling=[sampling] * count,
            snapshot_at=np.full(count, -1, np.int32),
            **options,
        )
    )


def made(cell: str, layers: int = 1) -> Architecture:
    return Architecture(cell=cell, layers=layers, units=24, embedding=8, vocabulary=VOCABULARY)


def distribution(logits: NDArray[np.float64], sampling: Sampling) -> NDArray[np.float64]:
    """What `Sampling` says, in its words and in float64: the exact probabilities of all characters."""
    logits = logits if sampling.allowed is None else np.where(sampling.allowed, logits, -np.inf)
    p = np.exp((logits - logits.max()) / sampling.temperature)
    order = np.argsort(-p, kind="stable")
    left = p[order][: sampling.top_k]
    left = left[np.concatenate([[0], np.cumsum(left / left.sum())[:-1]]) < sampling.top_p]
    left = left[left >= sampling.min_p * left[0]]
    kept = np.zeros_like(p)
    kept[order[: len(left)]] = left
    return kept / kept.sum()  # type: ignore[no-any-return]


ALLOWED = np.isin(np.arange(len(VOCABULARY)), np.arange(0, len(VOCABULARY), 3))

SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.7),
    Sampling(temperature=2.5, top_k=7),
    Sampling(top_p=0.6),
    Sampling(min_p=0.05),
    Sampling(allowed=ALLOWED),
    Sampling(temperature=1.3, top_k=30, top_p=0.9, min_p=0.01, allowed=ALLOWED),
]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_text_does_not_depend_on_its_neighbours_nor_on_how_calls_are_cut_nor_on_who_read_its_prompt(cell: str) -> None:
    architecture = made(cell, layers=2)
    vocabulary, tensors = Vocabulary(VOCABULARY), random_tensors(architecture)
    rng = np.random.default_rng(1)
    starts = ["".join(rng.choice(VOCABULARY, rng.integers(1, 60))) for _ in range(5)]
    asked = [
        Asked(
            starts[i % 5],
            int(rng.integers(1, 80)),
            seed=i,
            sampling=[*SAMPLINGS, Sampling(temperature=0)][i % 8],
            stop=("a", "b") if i % 3 == 0 else (),
            top_logprobs=4 if i % 6 == 0 else None,
        )
        for i in range(17)
    ]
    backend = native(architecture, tensors, 5)
    together = generate(backend, vocabulary, asked)
    assert together == [generate(backend, vocabulary, [one])[0] for one in asked]
    assert together == generate(backend, vocabulary, asked, longest=3)
    assert together == generate(backend, vocabulary, asked, prompt_cache=100_000)


def test_a_draw_inverts_the_cdf() -> None:
    """At uniforms through [0, 1) the characters come in id order, each for a span as wide as its probability."""
    architecture = made("gru")
    tensors = random_tensors(architecture)
    count = 4096
    backend = native(architecture, tensors, count)
    logits = reference_logits(architecture, tensors, [5])[0]
    for sampling in SAMPLINGS:
        drawn = step(backend, (np.arange(count) + 0.5) / count, sampling).chosen[0]
        assert (np.diff(drawn) >= 0).all()
        spans = np.bincount(drawn, minlength=len(VOCABULARY)) / count
        np.testing.assert_allclose(spans, distribution(logits, sampling), atol=1.5 / count)


@pytest.mark.slow
def test_draws_follow_the_exact_distribution() -> None:
    """Pearson's chi-square over 60,000 draws with a generation's own uniforms.

    With c characters that can come, the sum of (seen - expected)^2 / expected over them is close to chi-square with c - 1
    degrees of freedom: mean c - 1, standard deviation sqrt(2 (c - 1)). A bound of the mean and 6 deviations would be passed
    by chance once in some ten thousand runs or less (the tail is longer than a normal one's); the seeds are fixed, so it
    never is. Any character whose probability is off by 10 % where it should come 5,000 times adds 50 to the sum. Those that
    are expected less than 5 times are counted together, as the approximation asks; those left out must not come at all.
    """
    architecture = made("gru")
    tensors = random_tensors(architecture)
    slots, calls = 2000, 30
    backend = native(architecture, tensors, slots)
    logits = reference_logits(architecture, tensors, [5])[0]
    for seed, sampling in enumerate(SAMPLINGS):
        generation = Generation(Prompt(np.array([5], np.int32)), slots * calls, sampling, seed)
        seen = np.zeros(len(VOCABULARY))
        for _ in range(calls):
            seen += np.bincount(step(backend, generation.uniforms(slots), sampling).chosen[0], minlength=len(VOCABULARY))
        expected = distribution(logits, sampling) * slots * calls
        assert seen[expected == 0].sum() == 0
        rare = expected < 5
        seen, expected = np.append(seen[~rare], seen[rare].sum()), np.append(expected[~rare], expected[rare].sum())
        seen, expected = seen[expected > 0], expected[expected > 0]
        freedom = len(expected) - 1
        assert freedom > 1
        assert ((seen - expected) ** 2 / expected).sum() < freedom + 6 * sqrt(2 * freedom), sampling


def test_temperature_zero_takes_the_likeliest_allowed_character() -> None:
    architecture = made("gru")
    tensors = random_tensors(architecture)
    backend = native(architecture, tensors, 3)
    logits = reference_logits(architecture, tensors, [5])[0]
    for allowed in (None, ALLOWED, ~ALLOWED):
        sampling = Sampling(temperature=0, allowed=allowed)
        uniforms = Generation(Prompt(np.array([5], np.int32)), 3, sampling, 1).uniforms(3)
        expected = np.argmax(logits if allowed is None else np.where(allowed, logits, -np.inf))
        assert step(backend, uniforms, sampling).chosen.tolist() == [[expected] * 3]
        for only in (Sampling(0.3, top_k=1), Sampling(0.3, top_p=1e-300), Sampling(0.3, min_p=1)):
            one = replace(only, allowed=allowed)
            assert step(backend, np.array([0, 0.5, 0.999]), one).chosen.tolist() == [[expected] * 3]


def test_of_equally_likely_characters_top_k_keeps_those_of_lower_id() -> None:
    architecture = made("gru")
    tensors = {name: np.zeros_like(tensor) for name, tensor in random_tensors(architecture).items()}
    uniforms = np.linspace(0, 0.999, 100)
    drawn = step(native(architecture, tensors, 100), uniforms, Sampling(top_k=3)).chosen[0]
    assert sorted(set(drawn.tolist())) == [0, 1, 2]


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1e-38, 1e-3, 1e300])
def test_any_temperature_draws_characters_and_the_smallest_take_the_likeliest(temperature: float) -> None:
    architecture = made("gru")
    vocabulary, backend = Vocabulary(VOCABULARY), native(made("gru"), random_tensors(architecture), 1)
    (text,) = generate(backend, vocabulary, [Asked("a", 200, 1, Sampling(temperature))])
    assert len(text) == 201
    (other,) = generate(backend, vocabulary, [Asked("a", 200, 2, Sampling(temperature))])
    assert (text == other) == (temperature <= 1e-3)


def test_log_probabilities_are_the_networks_own_for_forced_and_drawn_characters() -> None:
    architecture = made("gru")
    tensors, rng = random_tensors(architecture), np.random.default_rng(0)
    backend = native(architecture, tensors, 2)
    forced = np.array([[3, -1], [9, -1], [1, 4], [-1, -1]], np.int32)
    decoded = backend.decode(
        Batch(
            slots=np.array([0, 1], np.int32),
            starts={0: None, 1: None},
            inputs=np.array([5, 6], np.int32),
            forced=forced,
            uniforms=rng.random((4, 2), np.float32),
            sampling=[Sampling(temperature=0.3, top_k=2), Sampling(temperature=2)],
            snapshot_at=np.array([-1, -1], np.int32),
            top_logprobs=MAX_TOP_LOGPROBS,
        )
    )
    assert decoded.log_probabilities is not None
    assert (decoded.chosen[forced >= 0] == forced[forced >= 0]).all()
    for b, first in enumerate((5, 6)):
        ids = [first, *decoded.chosen[:, b].tolist()]
        logits = reference_logits(architecture, tensors, ids[:-1])
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        order = np.argsort(-expected, axis=1)[:, :MAX_TOP_LOGPROBS]
        np.testing.assert_allclose(decoded.log_probabilities.chosen[:, b], expected[range(4), ids[1:]], atol=1e-4)
        assert (decoded.log_probabilities.top_ids[:, b] == order).all()
        np.testing.assert_allclose(decoded.log_probabilities.top_values[:, b], np.take_along_axis(expected, order, 1), atol=1e-4)


def test_a_state_kept_in_mid_call_goes_on_as_the_slot_itself_did() -> None:
    architecture = made("lstm", layers=2)
    backend = native(architecture, random_tensors(architecture), 4)
    rng = np.random.default_rng(0)

    def call(slots: list[int], steps: int, inputs: list[int], uniforms: NDArray[np.float32], **options: Any) -> Decoded:
        return backend.decode(
            Batch(
                slots=np.array(slots, np.int32),
                inputs=np.array(inputs, np.int32),
                forced=np.full((steps, len(slots)), -1, np.int32),
                uniforms=uniforms,
                sampling=[Sampling()] * len(slots),
                **options,
            )
        )

    uniforms = rng.random((10, 3), np.float32)
    whole = call([0, 1, 2], 10, [5, 6, 7], uniforms, starts=dict.fromkeys(range(3)), snapshot_at=np.array([4, -1, 0], np.int32))
    assert sorted(whole.snapshots) == [0, 2]
    rest = uniforms[4:, :1]
    again = call([3], 6, [int(whole.chosen[3, 0])], rest, starts={0: whole.snapshots[0]}, snapshot_at=np.array([-1], np.int32))
    assert again.chosen[:, 0].tolist() == whole.chosen[4:, 0].tolist()
    fresh = call([3], 10, [7], uniforms[:, 2:], starts={0: whole.snapshots[2]}, snapshot_at=np.array([-1], np.int32))
    assert fresh.chosen[:, 0].tolist() == whole.chosen[:, 2].tolist()


@pytest.mark.slow
def test_sixty_four_at_once_on_the_shipped_model_get_bit_for_bit_what_they_get_alone() -> None:
    """The network's real size, where a product is cut into blocks that could depend on the batch; not one character may differ."""
    version = artifact.read(candidates(SHAKESPEARE)[0])
    vocabulary = Vocabulary(version.config.vocabulary)
    backend = native(version.config, version.tensors, 64)
    allowed = np.array([character.islower() or character in " \n" for character in vocabulary.characters])
    kinds = [
        Sampling(),
        Sampling(0.5),
        Sampling(top_k=5),
        Sampling(1.5, top_p=0.8),
        Sampling(min_p=0.1),
        Sampling(allowed=allowed),
        Sampling(0),
    ]
    asked = [
        Asked("ROMEO: JULIET:"[i % 13 :], 20 + i % 20, i, kinds[i % 7], top_logprobs=5 if i % 11 == 0 else None) for i in range(64)
    ]
    together = generate(backend, vocabulary, asked, prompt_cache=1_000_000)
    assert together == [generate(backend, vocabulary, [one])[0] for one in asked]


def test_a_large_vocabulary_is_no_fault() -> None:
    characters = [chr(0x4E00 + i) for i in range(5000)]
    architecture = Architecture(cell="gru", layers=1, units=16, embedding=4, vocabulary=characters)
    backend = native(architecture, random_tensors(architecture), 2)
    asked = [Asked("\u4e00", 50, 3), Asked("\u4e00", 50, 3, Sampling(top_k=5000), top_logprobs=20)]
    texts = generate(backend, Vocabulary(characters), asked)
    assert len(set(texts[0])) > 10
    assert texts[0] == texts[1]


@pytest.mark.slow
@pytest.mark.skipif(has_device(), reason="this machine has a GPU")
def test_without_a_gpu_a_version_is_served_with_no_tensorflow_or_cuda_in_the_process() -> None:
    program = (
        "import sys; from pathlib import Path; from service.app import create_app; from service.generation.backends import *;"
        "from trainer import artifact; version = artifact.read(Path(sys.argv[1]));"
        "print(open_backend(version, choose(), slots=2).name, {'tensorflow', 'cuda'} & {*sys.modules})"
    )
    assert subprocess.check_output([sys.executable, "-c", program, candidates(SHAKESPEARE)[0]], text=True) == "native set()\n"


@pytest.fixture
def unchosen() -> Iterator[None]:
    """Before and after the test no backend is chosen."""
    choose.cache_clear()
    yield
    choose.cache_clear()


@pytest.mark.usefixtures("unchosen")
def test_where_the_kernel_cannot_be_built_the_reference_runs_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler() -> None:
        raise Unsupported("there is no C compiler")

    monkeypatch.setattr("service.generation.backends.load_library", no_compiler)
    assert choose() == "reference"
    assert "there is no C compiler. The reference backend gives the same texts" in caplog.text
