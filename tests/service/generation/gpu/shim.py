"""A device that is a CPU: the kernels' source compiled as C++ against shim.h."""

import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.generation.backend import Batch
from service.generation.cuda.device import SOURCES, Gpu
from service.generation.cuda.network import CudaNetwork
from service.generation.quantized import QuantizedNetwork
from trainer.artifact import VersionConfig

HERE = Path(__file__).parent
WARNINGS = ("-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-maybe-uninitialized")


def compiler() -> list[str] | None:
    """The command of a C++ compiler, or None."""
    if path := shutil.which("g++") or shutil.which("clang++"):
        return [path]
    return None


@cache
def build(folder: Path, source: str, macros: tuple[tuple[str, int], ...], flags: tuple[str, ...] = ("-O1",)) -> Path:
    """Compiles a file of kernels into a library in `folder`."""
    values = "-".join(f"{name}{value}" for name, value in macros)
    library = folder / f"{source.removesuffix('.cu')}-{values}.so"
    definitions = [f"-D{name}={value}" for name, value in macros] + [f'-DSOURCE="{source}"']
    exact = ("-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-shared", "-fPIC")
    command = [*(compiler() or ["c++"]), *exact, *flags, *WARNINGS, f"-I{SOURCES}", *definitions]
    subprocess.run([*command, "-o", library, HERE / "shim.cpp"], check=True)
    return library


class ShimDevice(Gpu):
    """A CPU. seed: of the order in which threads run."""

    def __init__(
        self,
        folder: Path,
        *,
        processors: int = 3,
        shared_memory: int = 227 << 10,
        threads: int = 64,
        flags: tuple[str, ...] = ("-O1",),
    ) -> None:
        """threads: of a block of streamed.cu. The fewer there are, the faster the emulation."""
        self.name, self.processors, self.shared_memory = "a CPU", processors, shared_memory
        self.seed, self.launched = 0, list[str]()
        self._folder, self._threads, self._flags = folder, threads, flags
        self._memory: dict[int, NDArray[np.uint8]] = {}

    @property
    def allocations(self) -> int:
        return len(self._memory)

    def use(self) -> None:
        pass

    def allocate(self, size: int) -> int:
        memory = np.zeros(size + 16, np.uint8)
        pointer = -(-memory.ctypes.data // 16) * 16
        self._memory[pointer] = memory
        return pointer

    def free(self, pointer: int) -> None:
        del self._memory[pointer]

    def write(self, pointer: int, data: NDArray[Any]) -> None:
        assert data.flags.c_contiguous
        ctypes.memmove(pointer, data.ctypes.data, data.nbytes)

    def read(self, pointer: int, data: NDArray[Any]) -> None:
        assert data.flags.c_contiguous
        ctypes.memmove(data.ctypes.data, pointer, data.nbytes)

    def clear(self, pointer: int, size: int) -> None:
        ctypes.memset(pointer, 0, size)

    def compile(self, source: str, macros: Mapping[str, int], shared: Mapping[str, int]) -> dict[str, Any]:
        threads = {"THREADS": self._threads} if source == "streamed.cu" else {}
        library = ctypes.CDLL(str(build(self._folder, source, tuple({**macros, **threads}.items()), self._flags)))
        return {name: (name, library) for name in shared}

    def launch(self, kernel: Any, blocks: int, shared: int, network: int, call: int) -> None:
        name, library = kernel
        assert 0 < blocks <= self.processors
        assert shared <= self.shared_memory
        self.launched.append(name)
        function = ctypes.cast(getattr(library, name), ctypes.c_void_p)
        library.run(function, blocks, shared, self.seed, ctypes.c_void_p(network), ctypes.c_void_p(call))


class OnShim:
    """A network on the shim, with the interface of `NativeNetwork`. Rows are in slots of any order."""

    def __init__(self, device: ShimDevice, network: QuantizedNetwork, slots: int) -> None:
        self.device, self._slots = device, slots
        self.network = CudaNetwork(device, network, slots)

    def advance(
        self, states: NDArray[np.float32], batch: Batch, threads: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32] | None]:
        """See `NativeNetwork.advance`. threads: the seed of the order in which CUDA's threads run."""
        self.device.seed = threads
        slots = np.random.default_rng(threads).permutation(self._slots)[: len(states)].astype(np.int32)
        for slot, state in zip(slots.tolist(), states, strict=True):
            self.network.load(slot, state)
        result = self.network.advance(replace(batch, slots=slots))
        states[...] = [self.network.state(slot) for slot in slots.tolist()]
        return result


def config(characters: str) -> VersionConfig:
    """The configuration of a network whose weights fit the shared memory of two blocks."""
    unchecked: Any = VersionConfig.model_construct  # without a published version's other fields
    made: VersionConfig = unchecked(cell="gru", layers=1, units=64, embedding=8, vocabulary=list(characters))
    return made
