"""The kernels for GPUs on a CPU: equal bits from the reference and from the kernels' own source, compiled as C++ (shim.h)."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.systems import shipped
from service.generation import quantized
from service.generation.core import EngineCore
from service.generation.cuda.backend import CudaBackend, gives_the_references_bits
from service.generation.cuda.device import CudaError
from service.generation.cuda.layout import Resident
from service.generation.cuda.network import CudaNetwork
from service.generation.exact import ExactBackend
from service.generation.quantized import quantize
from service.generation.request import Generation, Prompt
from service.generation.sampling import Automaton, History, Sampling
from tests import sanitized
from tests.service.generation.exact_calls import BOUNDARY_SAMPLINGS, check_boundaries, check_call, check_top_p, network, one_step
from tests.service.generation.gpu.shim import OnShim, ShimDevice, compiler
from tests.support import random_tensors, run_core
from trainer.artifact import Architecture

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")

ARCHITECTURE = Architecture(cell="gru", layers=1, units=64, embedding=8, vocabulary=[chr(97 + i) for i in range(33)])
SHARED = 227 << 10  # bytes of shared memory that a block of an H100 may have


# --- streamed.cu: any network, any options


@pytest.mark.parametrize("table", [quantized.LARGEST_TABLE, 0], ids=["table", "no table"])
@pytest.mark.parametrize(("cell", "layers"), [("gru", 1), ("lstm", 1), ("gru", 3), ("lstm", 2)])
def test_any_options_give_the_references_bits(
    folder: Path, cell: str, layers: int, table: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "LARGEST_TABLE", table)
    n = network(cell, layers, 33, 20, 70)
    on_shim = OnShim(ShimDevice(folder), n, 20)
    for seed, rows in enumerate((1, 2, 5, 18)):
        check_call(n, on_shim, rows, 4, seed, seed)


@pytest.mark.parametrize("vocabulary", [1, 15, 17, 256, 257, 1100])
def test_any_vocabulary(folder: Path, vocabulary: int) -> None:
    n = network("gru", 1, 8, vocabulary)
    on_shim = OnShim(ShimDevice(folder), n, 5)
    for seed, rows in enumerate((1, 5)):
        check_call(n, on_shim, rows, 3, seed, seed)


@pytest.mark.parametrize("sampling", BOUNDARY_SAMPLINGS, ids=str)
def test_the_choice_changes_at_the_references_uniform_numbers(folder: Path, sampling: Sampling) -> None:
    for vocabulary in (33, 257) if sampling.plain else (33,):
        n = network("gru", 1, 17, vocabulary)
        check_boundaries(n, OnShim(ShimDevice(folder), n, 2 * vocabulary), sampling)


def test_top_p_keeps_another_character_at_the_references_values(folder: Path) -> None:
    n = network("gru", 1, 17, 33)
    check_top_p(n, OnShim(ShimDevice(folder), n, 500))


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cell=st.sampled_from(["gru", "lstm"]), layers=st.integers(1, 2), units=st.integers(1, 70), vocabulary=st.integers(1, 90),
    embedding=st.integers(1, 70), rows=st.integers(1, 20), steps=st.integers(1, 4), processors=st.integers(1, 5),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_any_shape(
    folder: Path,
    cell: str,
    layers: int,
    units: int,
    vocabulary: int,
    embedding: int,
    rows: int,
    steps: int,
    processors: int,
    seed: int,
) -> None:
    n = network(cell, layers, units, vocabulary, embedding)
    check_call(n, OnShim(ShimDevice(folder, processors=processors), n, rows), rows, steps, seed, seed)


# --- resident.cu: a GRU of one layer that fits, and a temperature


@pytest.mark.parametrize(
    ("units", "vocabulary", "processors", "shared_memory", "fit"),
    [
        (64, 33, 4, SHARED, (32, 1)),
        (64, 65, 2, SHARED, (32, 1)),
        (256, 17, 8, SHARED, (32, 4)),
        (128, 33, 4, 40 << 10, (32, 1)),  # too little for two parts
        (128, 33, 8, 36 << 10, (16, 2)),
    ],
)
def test_weights_in_shared_memory_give_the_references_bits(
    folder: Path, units: int, vocabulary: int, processors: int, shared_memory: int, fit: tuple[int, int]
) -> None:
    n = network("gru", 1, units, vocabulary)
    device = ShimDevice(folder, processors=processors, shared_memory=shared_memory)
    on_shim = OnShim(device, n, 50)
    assert on_shim.network.resident
    assert (on_shim.network.resident.width, on_shim.network.resident.split) == fit
    few = on_shim.network.resident.rows_of_few
    for seed, rows in enumerate((1, 2, 15, few, few + 1) if units == 64 else (7, few + 1)):
        device.launched.clear()
        check_call(n, on_shim, rows, 5, seed, seed, plain=rows)
        assert device.launched == ["advance_few" if rows <= few else "advance_many"]


def test_the_order_in_which_threads_run_makes_no_difference(folder: Path) -> None:
    n = network("gru", 1, 64, 33)
    on_shim = OnShim(ShimDevice(folder, processors=4), n, 3)
    for seed in range(12):
        check_call(n, on_shim, 3, 8, seed, seed, plain=3)


@pytest.mark.parametrize(("processors", "kernel"), [(8, "advance_few"), (2, "advance_many")])
def test_a_temperature_alone_changes_the_choice_at_the_same_numbers(folder: Path, processors: int, kernel: str) -> None:
    n = network("gru", 1, 64, 33)
    device = ShimDevice(folder, processors=processors)
    check_boundaries(n, OnShim(device, n, 66), Sampling(temperature=1.3))
    assert device.launched == [kernel]


def test_rows_with_other_options_are_advanced_apart_from_many_plain_ones(folder: Path) -> None:
    n = network("gru", 1, 64, 33)
    device = ShimDevice(folder, processors=2)
    on_shim = OnShim(device, n, 40)
    check_call(n, on_shim, 40, 4, 1, plain=12)
    assert device.launched == ["advance_few", "advance_gru"]


@pytest.mark.parametrize(
    ("cell", "layers", "units", "vocabulary"), [("lstm", 1, 64, 20), ("gru", 2, 64, 20), ("gru", 1, 65, 20), ("gru", 1, 256, 97)]
)
def test_another_network_is_streamed(cell: str, layers: int, units: int, vocabulary: int) -> None:
    assert Resident.fit(network(cell, layers, units, vocabulary), 132, SHARED) is None


def test_a_network_larger_than_the_shared_memory_is_streamed() -> None:
    n = network("gru", 1, 1024, 65)
    fit = Resident.fit(n, 132, SHARED)
    assert (fit and (fit.width, fit.split, fit.groups)) == (32, 4, 4)
    assert max(fit.few, fit.many) <= SHARED if fit else False
    fit = Resident.fit(n, 108, 163 << 10)  # an A100
    assert (fit and (fit.width, fit.split, fit.groups)) == (16, 8, 1)
    assert Resident.fit(n, 60, 99 << 10) is None
    fit = Resident.fit(network("gru", 1, 512, 65), 58, 99 << 10)  # an L4
    assert (fit and (fit.width, fit.split, fit.groups)) == (16, 4, 1)


def test_the_mail_is_cleared_before_its_tags_are_used_again(folder: Path) -> None:
    n = network("gru", 1, 64, 33)
    device = ShimDevice(folder, processors=4)
    on_shim = OnShim(device, n, 3)
    check_call(n, on_shim, 3, 5, 1, plain=3)
    on_shim.network._tag = (1 << 16) - 3
    for seed in range(3):
        check_call(n, on_shim, 3, 5, 1, seed, plain=3)
    assert on_shim.network._tag < 20


# --- the backend


def test_the_backend_writes_what_the_reference_writes(folder: Path) -> None:
    """Prompts, snapshots, and calls of any length and mixture, through the engine's core."""
    tensors = random_tensors(ARCHITECTURE)

    def written(backend: CudaBackend | ExactBackend) -> list[NDArray[np.int32]]:
        rng, prompts = np.random.default_rng(0), [np.arange(1 + 5 * i, dtype=np.int32) % 33 for i in range(5)]
        options = [Sampling(), Sampling(temperature=0), Sampling(top_p=0.8), Sampling(), Sampling(top_k=3, min_p=0.1)]
        generations = [Generation(Prompt(prompts[i]), int(rng.integers(5, 20)), options[i], i) for i in range(5)]
        outputs = run_core(EngineCore(backend, queue_limit=5, max_steps=6, prompt_cache=1 << 20), *generations)
        return [np.asarray(outputs[generation].characters) for generation in generations]

    device = ShimDevice(folder, processors=2)
    on_device, by_reference = (
        written(backend)
        for backend in (CudaBackend(ARCHITECTURE, tensors, 3, device), ExactBackend(ARCHITECTURE, tensors, 3, None))
    )
    assert [ids.tolist() for ids in on_device] == [ids.tolist() for ids in by_reference]
    assert {"advance_few", "advance_gru"} <= set(device.launched)


def test_a_device_that_gives_other_bits_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = ShimDevice(folder, processors=2)
    read = device.read

    def read_wrongly(pointer: int, data: NDArray[np.float32]) -> None:
        read(pointer, data)
        if data.dtype == np.float32:
            data.view(np.int32)[...] ^= 1

    monkeypatch.setattr(device, "read", read_wrongly)
    with pytest.raises(CudaError, match="other bits than the reference"):
        CudaBackend(ARCHITECTURE, random_tensors(ARCHITECTURE), 3, device)


def test_an_id_outside_the_vocabulary_does_not_reach_the_device(folder: Path) -> None:
    n = network("gru", 1, 8, 15)
    on_shim = OnShim(ShimDevice(folder), n, 1)
    batch = one_step(np.zeros((1, 1), np.float32), [Sampling()])
    for inputs, forced in ((15, -1), (-1, -1), (0, 15)):
        with pytest.raises(ValueError, match="not in the vocabulary"):
            on_shim.network.advance(replace(batch, inputs=batch.inputs + inputs, forced=np.full((1, 1), forced, np.int32)))


def test_a_network_and_an_automaton_leave_no_memory_behind(folder: Path) -> None:
    device = ShimDevice(folder)
    network_on_device = [CudaNetwork(device, network("gru", 1, 8, 15), 1)]

    def call(sampling: Sampling) -> None:
        history = History.of(np.zeros(1, np.int32), 15)
        network_on_device[0].advance(one_step(np.zeros((1, 1), np.float32), [sampling], {0: history}))

    call(Sampling(top_k=2))
    before = device.allocations
    automaton = Automaton(np.zeros((1, 15), np.int32), np.zeros(1, np.int32))
    for _ in range(3):
        call(Sampling(automaton=automaton))
    assert device.allocations == before + 2, "its two arrays are copied once"
    del automaton
    gc.collect()
    call(Sampling(top_k=2))
    assert device.allocations == before
    network_on_device.pop()
    gc.collect()
    assert device.allocations == 0


def test_the_included_model_gives_the_references_bits_in_the_shape_that_an_h100_runs(folder: Path) -> None:
    version, device = shipped(), ShimDevice(folder, processors=33)
    backend = CudaBackend(version.config, version.tensors, 17, device)  # compares two calls of few rows
    assert backend.network.resident
    assert (backend.network.resident.width, backend.network.resident.blocks) == (32, 32)
    network = quantize(version.config, version.tensors)
    assert gives_the_references_bits(backend.network, network, [Sampling()] * 17, 3)
    assert device.launched == ["advance_few", "advance_gru", "advance_many"]


# --- the source itself

CHECK = """
import sys
from pathlib import Path
from tests.service.generation.exact_calls import check_call, network
from tests.service.generation.gpu.shim import OnShim, ShimDevice
flags = ("-O1", "-g", *sys.argv[2:])
networks = (("gru", 1, 9, 20), ("lstm", 2, 9, 20), ("gru", 1, 9, 260), ("gru", 1, 64, 33), ("gru", 1, 128, 33))
for cell, layers, units, vocabulary in networks:
    n, plain = network(cell, layers, units, vocabulary), units >= 64
    on_shim = OnShim(ShimDevice(Path(sys.argv[1]), processors=max(units // 32, 2), flags=flags), n, 20)
    for seed, rows in enumerate((1, 7, 20) if units == 64 else (1, 5)):
        check_call(n, on_shim, rows, 4, seed, seed, plain=rows * plain)
"""


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_a_sanitizer_finds_no_race_and_no_stray_access(tmp_path: Path, sanitizer: str) -> None:
    _, runtime = sanitized.find_compiler("g++", sanitizer)
    options = {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0", "TSAN_OPTIONS": "history_size=7"}
    flags = [f"-fsanitize={sanitizer}", *(["-fno-sanitize-recover"] if sanitizer == "address" else [])]
    sanitized.check(CHECK, tmp_path, *flags, runtime=runtime, **options)
