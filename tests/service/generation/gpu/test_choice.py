"""Which backend runs where there is a GPU, and what the log says of it. The shim stands in for the GPU."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.generation import backends
from service.generation.backends import Unsupported, choose, open_backend
from service.generation.cuda.device import CudaError, Gpu, open_gpu
from tests.service.generation.gpu.shim import ShimDevice, compiler, config
from tests.support import random_tensors
from trainer.artifact import Version


@pytest.fixture
def version(tmp_path: Path) -> Version:
    small = config("abcdefghij")
    return Version(tmp_path, small, random_tensors(small))


@pytest.fixture
def gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShimDevice]:
    """This machine has a GPU."""
    device = ShimDevice(folder, processors=4)
    for name, value in {"has_device": lambda: True, "is_installed": lambda: True, "open_gpu": lambda: device}.items():
        monkeypatch.setattr(backends, name, value)
    choose.cache_clear()
    yield device
    choose.cache_clear()


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
def test_a_gpu_is_taken_where_there_is_one(version: Version, gpu: ShimDevice, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    backend = open_backend(version, "auto", slots=3)
    assert (backend.name, backend.arithmetic, backend.precision, backend.slots) == ("cuda", "exact", "int8", 3)
    assert "a CPU: 4 multiprocessors, weights in shared memory" in caplog.text
    assert {"advance_few", "advance_gru"} <= set(gpu.launched), "all that it may run has run"


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_cannot_be_used_is_left_for_the_cpu_with_a_warning(
    version: Version, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def busy() -> Gpu:
        raise CudaError("the GPU is busy")

    monkeypatch.setattr(backends, "open_gpu", busy)
    assert open_backend(version, "auto", slots=3).name in ("native", "reference")
    assert "the cuda backend cannot run here: the GPU is busy. The model runs on the CPU instead" in caplog.text
    with pytest.raises(Unsupported, match="the cuda backend cannot run here: the GPU is busy"):
        open_backend(version, "cuda", slots=3)


@pytest.mark.usefixtures("gpu")
def test_a_lack_of_the_gpus_memory_is_told_from_a_gpu_that_can_never_be_used(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        name = "CUDA_ERROR_OUT_OF_MEMORY"

        def __int__(self) -> int:
            return 2

    def full(*_: object) -> None:
        Gpu._check(object.__new__(Gpu), (Full(),))

    monkeypatch.setattr(ShimDevice, "allocate", full)
    with pytest.raises(Unsupported, match="CUDA_ERROR_OUT_OF_MEMORY") as raised:
        open_backend(version, "cuda", slots=3)
    assert isinstance(raised.value.__cause__, MemoryError)


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
def test_a_gpu_that_starts_no_call_is_left_too(
    version: Version, gpu: ShimDevice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def launch(*_: object) -> None:
        raise CudaError("too many blocks")

    monkeypatch.setattr(gpu, "launch", launch)
    assert open_backend(version, "auto", slots=3).name in ("native", "reference")
    assert "too many blocks" in caplog.text


@pytest.mark.usefixtures("gpu")
def test_a_gpu_without_its_packages_is_mentioned(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(backends, "is_installed", lambda: False)
    assert choose() in ("native", "reference")
    assert "there is a GPU, but the packages that use it are not installed: install the extra `cuda`" in caplog.text


@pytest.mark.parametrize(
    ("installed", "reason"),
    [(True, r"there is no NVIDIA driver \(libcuda.so.1\), or it finds no GPU"), (False, "install the extra `cuda`")],
)
def test_without_a_gpu_the_backend_says_what_is_missing(
    version: Version, installed: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.generation.cuda.device.is_installed", lambda: installed)
    monkeypatch.setattr("service.generation.cuda.device.has_device", lambda: False)
    open_gpu.cache_clear()
    with pytest.raises(Unsupported, match=f"the cuda backend cannot run here: .*{reason}"):
        open_backend(version, "cuda", slots=1)
