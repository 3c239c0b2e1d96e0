"""The exact step: equal bits from the reference and from the kernel, on every instruction set, by any number of threads."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trainer
from service.generation import quantized, reference
from service.generation.backend import Batch, Decoded
from service.generation.backends import Unsupported, load_library
from service.generation.core import EngineCore
from service.generation.exact import ExactBackend
from service.generation.native import Library
from service.generation.request import Generation, Prompt
from service.generation.sampling import Automaton, History, Sampling
from service.models_folder import candidates
from tests.service.generation.exact_calls import BOUNDARY_SAMPLINGS, bits, check_boundaries, check_call, network
from tests.support import load_weights, random_tensors, run_core
from trainer import artifact
from trainer import network as network_of_trainer
from trainer.artifact import Architecture, Version
from trainer.vocabulary import Vocabulary

try:
    LIBRARY = load_library()
except Unsupported as error:
    pytest.skip(f"no kernel here: {error}", allow_module_level=True)


@pytest.fixture(params=LIBRARY.instructions)
def instructions(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[quantized.LARGEST_TABLE, 0], ids=["table", "no table"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "LARGEST_TABLE", request.param)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("cell", "layers"), [("gru", 1), ("lstm", 1), ("gru", 3), ("lstm", 2)])
@pytest.mark.usefixtures("table")
def test_the_kernel_gives_the_references_bits_for_any_batch(instructions: str, threads: int, cell: str, layers: int) -> None:
    n = network(cell, layers, 65, 33)
    native = LIBRARY.open(n, 70, threads, instructions)
    for rows in range(1, 71, 1 if layers == 1 and threads == 2 and instructions != "portable" else 9):
        check_call(n, native, rows, 2, threads, seed=rows)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 99, 100])
def test_the_kernel_gives_the_references_bits_for_any_length_of_a_call(instructions: str, steps: int) -> None:
    n = network("gru", 2, 24, 60)
    check_call(n, LIBRARY.open(n, 5, 2, instructions), 5, steps, 2)


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [1, 15, 16, 17, 1023, 1024, 1100])
@pytest.mark.usefixtures("table")
def test_any_vocabulary(instructions: str, vocabulary: int) -> None:
    n = network("gru", 1, 16, vocabulary)
    for threads in (1, 2):
        native = LIBRARY.open(n, 20, threads, instructions)
        for rows in (1, 2, 20):
            check_call(n, native, rows, 3, threads)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", BOUNDARY_SAMPLINGS, ids=str)
def test_the_choice_changes_at_the_references_uniform_numbers(instructions: str, sampling: Sampling) -> None:
    n = network("gru", 1, 17, 33)
    check_boundaries(n, LIBRARY.open(n, 66, 1, instructions), sampling)


@pytest.mark.slow
@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cell=st.sampled_from(["gru", "lstm"]), layers=st.integers(1, 3), units=st.integers(1, 130), vocabulary=st.integers(1, 200),
    embedding=st.integers(1, 70), rows=st.integers(1, 40), steps=st.integers(1, 6), threads=st.integers(1, 4),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_any_shape(
    cell: str, layers: int, units: int, vocabulary: int, embedding: int, rows: int, steps: int, threads: int, seed: int
) -> None:
    n = network(cell, layers, units, vocabulary, embedding)
    for instructions in LIBRARY.instructions:
        check_call(n, LIBRARY.open(n, rows, threads, instructions), rows, steps, threads, seed)


def test_an_instruction_set_that_the_machine_lacks_is_told() -> None:
    with pytest.raises(ValueError, match="this machine has no mmx; it has "):
        LIBRARY.open(network("gru", 1, 16, 10), 1, 1, "mmx")


def test_exp_is_within_two_units_in_the_last_place() -> None:
    x = np.linspace(-87, 88, 1_000_001, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    ulp = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert (np.abs(reference.exp(x) - exact) / ulp).max() < 2
    assert reference.exp(np.zeros(1, np.float32))[0] == 1


@pytest.mark.slow
def test_a_draw_never_takes_a_weight_of_zero() -> None:
    rng = np.random.default_rng(0)
    largest = np.nextafter(np.float32(1), np.float32(0))
    for _ in range(2000):
        weights = np.where(rng.random(70) < 0.2, rng.random(70), 0).astype(np.float32)
        weights[rng.integers(70)] = 1
        for uniform in (np.float32(0), np.float32(rng.random()), largest):
            assert weights[reference.invert(weights, uniform)] > 0


# --- what penalties and automata mean


def run(
    backend: ExactBackend, steps: int, *, fresh: bool, forced: list[int] | None = None, uniform: float = 0.5, **options: Any
) -> Decoded:
    """So many steps of one row, all drawn at one uniform number or all forced."""
    choices = np.full((steps, 1), -1, np.int32) if forced is None else np.array(forced, np.int32)[:, None]
    fields: dict[str, Any] = {"sampling": [Sampling()], "snapshot_at": np.zeros(1, np.int32), **options}
    return backend.decode(
        Batch(
            slots=np.zeros(1, np.int32),
            starts={0: None} if fresh else {},
            inputs=np.array([3], np.int32),
            forced=choices,
            uniforms=np.full((steps, 1), uniform, np.float32),
            **fields,
        )
    )


@pytest.fixture(params=["native", "reference"])
def small(request: pytest.FixtureRequest) -> ExactBackend:
    """A network that knows 20 characters."""
    architecture = Architecture(cell="gru", layers=2, units=24, embedding=8, vocabulary=[chr(97 + i) for i in range(20)])
    return ExactBackend(architecture, random_tensors(architecture), 1, LIBRARY if request.param == "native" else None)


def test_an_automaton_demands_characters_that_the_network_does_not_see(small: ExactBackend) -> None:
    table = np.full((4, 22), -1, np.int32)
    table[0, 7] = 1
    table[1, 20:] = 2, 2  # two characters that the network does not know
    table[2, 9] = 3  # and after that nothing
    sampling, history = Sampling(automaton=Automaton(table, np.zeros(4, np.int32))), History.of(np.array([3]), 20)
    decoded = run(small, 6, fresh=True, sampling=[sampling], histories={0: history}, top_logprobs=0)
    assert decoded.chosen[:, 0].tolist() == [7, 21, 9, -1, -1, -1]
    assert history.state == 3
    assert decoded.log_probabilities is not None
    assert (decoded.log_probabilities.chosen[[1, 3, 4, 5], 0] == -9999).all()
    state = run(small, 1, fresh=False).snapshots[0]
    told = run(small, 2, fresh=True, forced=[7, 9], top_logprobs=0)
    assert bits(run(small, 1, fresh=False).snapshots[0]) == bits(state), "as if the unknown character had not been there"
    assert told.log_probabilities is not None
    assert bits(told.log_probabilities.chosen) == bits(decoded.log_probabilities.chosen[[0, 2]])


def test_an_automaton_waits_while_a_prompt_is_read(small: ExactBackend) -> None:
    table = np.full((2, 21), -1, np.int32)
    table[0, 20] = table[1, 20] = 1
    sampling, history = Sampling(automaton=Automaton(table, np.zeros(2, np.int32))), History.of(np.array([3]), 20)
    run(small, 3, fresh=True, forced=[1, 2, 3], sampling=[sampling], histories={0: history})
    assert history.state == 0
    state = run(small, 1, fresh=False).snapshots[0]
    run(small, 3, fresh=True, forced=[1, 2, 3])
    assert bits(run(small, 1, fresh=False).snapshots[0]) == bits(state)


def mixed(states: int) -> Automaton:
    """Each state allows 5 and 6, which the network knows, and 20 to 25, which it does not. 25 leads to the next state."""
    table = np.full((states, 26), -1, np.int32)
    for state in range(states):
        table[state, [5, 6, 20, 21, 22, 23, 24]] = state
        table[state, 25] = min(state + 1, states - 1)
    return Automaton(table, np.arange(states - 1, -1, -1).astype(np.int32))


def test_a_character_that_the_network_does_not_know_is_as_likely_as_if_all_were_equal(small: ExactBackend) -> None:
    """It does not know six of eight allowed characters: uniform numbers below 6/8 choose one of these."""
    bias = np.zeros(20, np.float32)
    bias[6] = 100  # among those that it knows it chooses 6
    for uniform, chosen in ((0.0, 20), (0.12, 20), (0.13, 21), (0.74, 25), (0.76, 6), (0.99, 6)):
        sampling, history = Sampling(bias=bias, automaton=mixed(1)), History.of(np.array([3]), 20)
        options: dict[str, Any] = {"sampling": [sampling], "histories": {0: history}}
        assert run(small, 1, fresh=True, uniform=uniform, **options).chosen[0, 0] == chosen


def test_at_temperature_0_the_network_chooses_if_it_knows_a_character(small: ExactBackend) -> None:
    sampling, history = Sampling(temperature=0, automaton=mixed(1)), History.of(np.array([3]), 20)
    chosen = run(small, 20, fresh=True, uniform=0, sampling=[sampling], histories={0: history}).chosen
    assert set(chosen[:, 0].tolist()) <= {5, 6}


def test_an_automaton_ends_within_the_characters_that_are_left(small: ExactBackend) -> None:
    """The last of four states is three characters away, and with three left there is only one way."""
    bias = np.zeros(20, np.float32)
    bias[5] = 100
    sampling = Sampling(temperature=0, bias=bias, automaton=mixed(4))
    history = History.of(np.array([3]), 20, num_left=8)
    chosen = run(small, 9, fresh=True, uniform=0, sampling=[sampling], histories={0: history}).chosen
    assert chosen[:, 0].tolist() == [5, 5, 5, 5, 5, 25, 25, 25, -1]
    assert (history.state, history.num_left) == (3, 0)


def test_penalties_are_of_the_drawn_text_and_repetition_of_the_prompt_too(small: ExactBackend) -> None:
    """Biases make character 5 by far the likeliest, then 6; a penalty tips the scale when it should."""
    bias = np.zeros(20, np.float32)
    bias[[5, 6]] = 100, 95

    def drawn(**penalties: Any) -> Any:
        sampling, history = Sampling(bias=bias, **penalties), History.of(np.array([3, 6, 6]), 20)
        return run(small, 5, fresh=True, sampling=[sampling], histories={0: history}).chosen[:, 0].tolist()

    assert drawn() == [5] * 5
    assert drawn(presence_penalty=20) == [5, 6, 5, 5, 5], "once both are there, they are as before"
    assert drawn(frequency_penalty=20) == [5, 6, 5, 6, 5], "each time the other"
    assert drawn(repetition_penalty=1.5) == [5, 5, 5, 5, 5], "6, which is in the prompt, was divided before"
    assert drawn(repetition_penalty=0.5) == [6, 6, 6, 6, 6], "6 is in the prompt"


def test_a_row_that_must_remember_its_text_needs_a_history(small: ExactBackend) -> None:
    with pytest.raises(KeyError):
        run(small, 1, fresh=True, sampling=[Sampling(presence_penalty=1)])


# --- texts

SHAKESPEARE = Path(__file__).parents[3] / "models" / "shakespeare"
GOLDEN = Path(__file__).with_name("golden.txt")


@cache
def shipped() -> Version:
    return artifact.read(candidates(SHAKESPEARE)[0])


def written(backend: ExactBackend, start: str, characters: int, seed: int, longest: int) -> str:
    """A text by the backend, in iterations of at most `longest` steps."""
    vocabulary = Vocabulary(shipped().config.vocabulary)
    generation = Generation(Prompt(vocabulary.encode(start)), characters, Sampling(), seed)
    core = EngineCore(backend, max_steps=longest)
    return start + vocabulary.decode(run_core(core, generation)[generation].characters)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LIBRARY.instructions, "reference"])
def test_the_shipped_model_writes_the_golden_text(name: str) -> None:
    library, instructions = (None, None) if name == "reference" else (LIBRARY, name)
    backend = ExactBackend(shipped().config, shipped().tensors, 4, library, instructions)
    characters = 500 if name == "reference" else 2000  # it is slow
    assert written(backend, "ROMEO: ", characters, seed=1, longest=64) == GOLDEN.read_text()[: 7 + characters]
    assert written(backend, "ROMEO: ", 200, seed=1, longest=7) == GOLDEN.read_text()[:207]


@pytest.mark.slow
def test_rounding_to_8_bits_costs_no_quality() -> None:
    """Nats per character of the corpus's last 64 windows of 256 characters, beside those of the network in float32."""
    version = shipped()
    text = (Path(trainer.__file__).parent / "data" / "shakespeare.txt").read_text()[-64 * 256 :]
    windows = Vocabulary(version.config.vocabulary).encode(text).reshape(64, 256)
    batch = Batch(
        slots=np.arange(64, dtype=np.int32),
        starts=dict.fromkeys(range(64)),
        inputs=windows[:, 0].copy(),
        forced=windows[:, 1:].T.copy(),
        uniforms=np.zeros((255, 64), np.float32),
        sampling=[Sampling()] * 64,
        snapshot_at=np.full(64, -1, np.int32),
        top_logprobs=0,
    )
    found = ExactBackend(version.config, version.tensors, 64, LIBRARY).decode(batch).log_probabilities
    single = network_of_trainer.build(version.config, batch_size=64)
    load_weights(single, version.tensors)
    logits = single(windows[:, :-1]).numpy().astype(np.float64)
    own = np.take_along_axis(logits, windows[:, 1:, None].astype(np.int64), 2)[..., 0]
    exact = float((np.log(np.exp(logits).sum(2)) - own).mean())
    assert found is not None
    assert abs(-float(found.chosen.mean(dtype=np.float64)) - exact) < 0.002


@pytest.mark.parametrize("library", [LIBRARY, None], ids=["native", "reference"])
def test_a_characters_log_probability_does_not_depend_on_the_number_of_alternatives(library: Library | None) -> None:
    a, b = (ExactBackend(shipped().config, shipped().tensors, 3, library) for _ in range(2))
    rng = np.random.default_rng(0)
    for starts in ({0: None, 1: None}, {}):
        forced = rng.integers(0, 65, (5, 2)).astype(np.int32)
        forced[3] = -1  # drawn characters are scored too
        uniforms, nothing = rng.random((5, 2), np.float32), np.full(2, -1, np.int32)
        batch = Batch(np.array([0, 2], np.int32), starts, forced[0], forced, uniforms, [Sampling()] * 2, nothing, top_logprobs=7)
        many, none = a.decode(batch).log_probabilities, b.decode(replace(batch, top_logprobs=0)).log_probabilities
        assert many is not None
        assert none is not None
        assert (many.top_ids.shape, none.top_ids.shape) == ((5, 2, 7), (5, 2, 0))
        assert bits(many.chosen) == bits(none.chosen)
