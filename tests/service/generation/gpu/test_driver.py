"""What launches the kernels: the real NVRTC, cuda-core and cuda-bindings. The driver is a stand-in that runs the shim."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from service.generation.core import EngineCore
from service.generation.cuda.device import is_installed
from service.generation.exact import ExactBackend
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from tests.service.generation.gpu.shim import ShimDevice, build, compiler, config
from tests.support import random_tensors, run_core
from trainer.artifact import Version
from trainer.vocabulary import Vocabulary

HERE = Path(__file__).parent
needs_cuda = pytest.mark.skipif(not is_installed(), reason="the extra `cuda` has no packages for this system")
needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")

PROGRAM = """
import json
from service.generation.cuda import device
from service.generation.cuda.backend import CudaBackend, gives_the_references_bits
from service.generation.cuda.device import has_device, open_gpu
from service.generation.quantized import quantize
from service.generation.sampling import Sampling
from tests.service.generation.gpu.test_driver import ARCHITECTURE, TENSORS
assert has_device()
CudaBackend(ARCHITECTURE, TENSORS, 1, open_gpu())
device.compile_cubin = None  # the next version of a model needs no compiler
backend = CudaBackend(ARCHITECTURE, TENSORS, 40, open_gpu())
network = quantize(ARCHITECTURE, TENSORS)
mixed = [Sampling(), Sampling(top_p=0.5), Sampling(presence_penalty=1), Sampling(temperature=0)]
equal = [gives_the_references_bits(backend.network, network, rows, 4) for rows in (mixed, [Sampling()] * 3, [Sampling()] * 40)]
print(json.dumps([open_gpu().name, open_gpu().arch, open_gpu().processors, equal]))
"""


ARCHITECTURE = config("".join(chr(97 + i) for i in range(33)))
TENSORS = random_tensors(ARCHITECTURE)


@needs_cuda
@needs_compiler
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("gcc"), reason="the stand-in for the driver needs Linux and gcc")
def test_the_kernels_run_through_the_real_packages(folder: Path, tmp_path: Path) -> None:
    driver = tmp_path / "libcuda.so.1"
    flags = ["-shared", "-fPIC", "-Wall", "-O1", f"-Wl,-soname,{driver.name}"]
    subprocess.run(["gcc", *flags, "-o", driver, HERE / "fake_driver.c", "-ldl"], check=True)
    macros = (("UNITS", 64), ("VOCABULARY", 33), ("WIDTH", 32), ("SPLIT", 1))
    kernels = [build(folder, "streamed.cu", ()), build(folder, "resident.cu", macros)]
    variables = {"FAKE_KERNELS": ":".join(map(str, kernels)), "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == ["Fake GPU", "sm_90", 4, [True, True, True]]


@needs_cuda
def test_the_kernels_compile_for_both_architectures_with_few_spills(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert gpu.main(["--compile", "--json", str(tmp_path / "report.json")]) == 0
    rows = json.loads((tmp_path / "report.json").read_text())["compiled"]
    assert {row["kernel"] for row in rows} == {
        f"{name}, {arch}" for name in ("advance_gru", "advance_lstm", "advance_few", "advance_many") for arch in ("sm_80", "sm_90")
    }
    assert all(row["spills"] < 64 and row["registers"] <= 128 and row["shared"] <= 227 << 10 for row in rows), rows
    assert "advance_few, sm_90" in capsys.readouterr().out


# --- the benchmark


@needs_compiler
def test_the_benchmark_checks_measures_and_reports(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = config(" :ABCDEFGHIJKLMNOPQRSTUVWXYZabcde")
    version = Version(tmp_path, small, random_tensors(small))
    generation = Generation(Prompt(Vocabulary(small.vocabulary).encode("ROME: ")), 40, Sampling(), 1)
    core = EngineCore(ExactBackend(small, version.tensors, 1, None))
    golden = tmp_path / "golden.txt"
    golden.write_text("ROME: " + Vocabulary(small.vocabulary).decode(run_core(core, generation)[generation].characters))
    settings: dict[str, Any] = {
        "START": "ROME: ",
        "GOLDEN": golden,
        "ROWS": {1: 3, 20: 3},
        "STREAMS": (1, 33),
        "STEPS": 2,
        "SECONDS": 0.01,
    }
    for name, value in {**settings, "shipped": lambda: version}.items():
        monkeypatch.setattr(gpu, name, value)
    device, report = ShimDevice(folder, processors=4), tmp_path / "report.json"
    arguments = ["--no-torch", "--no-service", "--json", str(report)]
    assert gpu.main(arguments, device) == 0
    found = json.loads(report.read_text())
    assert found["equal"]
    assert len(found["check"]) == 5
    assert [row["streams"] for row in found["speeds"]] == [1, 33]
    assert all(row["characters_per_second"] > 0 for row in found["speeds"])
    assert "a CPU: all bits equal" in capsys.readouterr().out
    golden.write_text(golden.read_text()[:-1] + "?")
    monkeypatch.setattr(gpu, "speeds", lambda *_: [])
    assert gpu.main(arguments, device) == 1, "another text"
    assert not json.loads(report.read_text())["equal"]


def test_the_benchmark_measures_the_service_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SERVED", {1: 50, 2: 20})
    rows = gpu.served(["--backend", "auto"])
    assert [(row["streams"], row["whole"]) for row in rows] == [(1, True), (2, True)]


def test_without_a_gpu_the_benchmark_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.generation.cuda.device.is_installed", lambda: True)
    monkeypatch.setattr("service.generation.cuda.device.has_device", lambda: False)
    assert gpu.main([]) == 1
    assert capsys.readouterr().err == "there is no NVIDIA driver (libcuda.so.1), or it finds no GPU\n"


def test_registers_and_spills_are_read_from_the_assemblers_log() -> None:
    log = (
        "ptxas info    : Compiling entry function 'one' for 'sm_90'\n"
        "    40 bytes stack frame, 44 bytes spill stores, 48 bytes spill loads\n"
        "ptxas info    : Used 128 registers, used 1 barriers\n"
        "ptxas info    : Compiling entry function 'two' for 'sm_90'\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 32 registers, used 1 barriers\n"
    )
    assert gpu.read_ptxas(log) == [("one", 128, 44), ("two", 32, 0)]
