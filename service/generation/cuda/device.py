"""A GPU, through cuda-core and cuda-bindings: memory, compilation by NVRTC, launches."""

import ctypes
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

SOURCES = Path(__file__).parents[1] / "kernel" / "cuda"
THREADS = 512  # of a block
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"


class CudaError(Exception):
    """The device cannot be used. The message gives the reason. Its cause is a MemoryError if the device's memory is short."""


def _cause(error: Exception) -> Exception:
    """The cause of a CudaError: a MemoryError if the device's memory is short. cuda-core's messages name the driver's errors."""
    return MemoryError() if OUT_OF_MEMORY in str(error) else error


@cache
def has_device() -> bool:
    """Whether there is NVIDIA's driver and a device. Imports nothing."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int(0)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False


def is_installed() -> bool:
    """Whether the extra `cuda` is installed."""
    try:
        return all(find_spec(name) is not None for name in ("cuda.core", "cuda.bindings"))
    except ModuleNotFoundError:
        return False


def compile_cubin(source: str, arch: str, macros: Mapping[str, int], log: Any = None) -> Any:
    """Compiles a file of SOURCES for an architecture such as "sm_90", which needs no device. log: ptxas writes to it.

    Raises CudaError.
    """
    from cuda.core import Program, ProgramOptions

    options = ProgramOptions(
        arch=arch,
        std="c++17",
        fma=False,
        define_macro=[(name, str(value)) for name, value in {"THREADS": THREADS, **macros}.items()],
        include_path=[str(SOURCES)],
        ptxas_options=["-v"] if log else None,
    )
    try:
        # cubin, not PTX: an older driver cannot compile the PTX of a newer NVRTC.
        return Program((SOURCES / source).read_text(), "c++", options).compile("cubin", logs=log)
    except Exception as error:  # cuda-core raises several kinds
        raise CudaError(f"{source} does not compile for {arch}: {error}") from _cause(error)


class Gpu:
    """The first GPU of the machine (CUDA_VISIBLE_DEVICES chooses another). Pointers are addresses in its memory.

    Several threads may use it. Launches run one after another, in the order in which they were started.
    """

    def __init__(self) -> None:
        """Raises CudaError."""
        if not is_installed():
            raise CudaError("the packages cuda-core and cuda-bindings are not installed: install the extra `cuda`")
        if not has_device():
            raise CudaError("there is no NVIDIA driver (libcuda.so.1), or it finds no GPU")
        from cuda import core
        from cuda.bindings import driver

        self._core, self._driver, self._lock = core, driver, Lock()
        self._sent: list[NDArray[Any]] = []
        self._compiled: dict[tuple[Any, ...], dict[str, Any]] = {}  # kernels by name
        try:
            device = core.Device(0)
            device.set_current()
            self._stream = device.create_stream()
            (major, minor), limits, self.name = device.compute_capability, device.properties, device.name
            self.processors, self.shared_memory = limits.multiprocessor_count, limits.max_shared_memory_per_block_optin
        except Exception as error:  # cuda-core raises several kinds
            raise CudaError(f"the GPU cannot be used: {error}") from _cause(error)
        self._queue, self._ordinal = driver.CUstream(int(self._stream.handle)), driver.CUdevice(0)
        self._context = self._check(driver.cuCtxGetCurrent())
        if (major, minor) < (8, 0):
            raise CudaError(f"the GPU has compute capability {major}.{minor}, and 8.0 is the least")
        self.arch = f"sm_{major}{minor}"

    def _check(self, result: tuple[Any, ...]) -> Any:
        """The value of a driver function's result. Raises CudaError."""
        if int(result[0]):
            name = str(getattr(result[0], "name", result[0]))
            raise CudaError(f"the GPU's driver reports {name}") from _cause(CudaError(name))
        return result[1] if len(result) == 2 else None

    def use(self) -> None:
        """Makes the device the calling thread's own. Call it before the methods below, in every thread."""
        self._check(self._driver.cuCtxSetCurrent(self._context))

    def allocate(self, size: int) -> int:
        """Zeroed memory of `size` bytes."""
        pointer = int(self._check(self._driver.cuMemAlloc(max(size, 16))))
        self.clear(pointer, max(size, 16))
        return pointer

    def free(self, pointer: int) -> None:
        self._check(self._driver.cuMemFree(pointer))

    def write(self, pointer: int, data: NDArray[Any]) -> None:
        """Copies a contiguous array to the device. The array must not change until the next `read` returns."""
        with self._lock:
            self._sent.append(data)  # the driver may read it later
            self._check(self._driver.cuMemcpyHtoDAsync(pointer, data.ctypes.data, data.nbytes, self._queue))

    def read(self, pointer: int, data: NDArray[Any]) -> None:
        """Waits for all launches, then copies from the device to a contiguous array."""
        with self._lock:
            sent, self._sent = self._sent, []
        self._check(self._driver.cuMemcpyDtoHAsync(data.ctypes.data, pointer, data.nbytes, self._queue))
        self._check(self._driver.cuStreamSynchronize(self._queue))
        sent.clear()

    def clear(self, pointer: int, size: int) -> None:
        self._check(self._driver.cuMemsetD8Async(pointer, 0, size, self._queue))

    def compile(self, source: str, macros: Mapping[str, int], shared: Mapping[str, int]) -> dict[str, Any]:
        """Compiles a file of SOURCES at the first call with these arguments. Raises CudaError.

        shared: the kernels' names, and the bytes of shared memory that their blocks need.
        """
        key = source, *macros.items(), *shared.items()
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = self._load(compile_cubin(source, self.arch, macros), shared)
            return self._compiled[key]

    def _load(self, code: Any, shared: Mapping[str, int]) -> dict[str, Any]:
        try:
            kernels = {name: code.get_kernel(name) for name in shared}
        except Exception as error:  # cuda-core raises several kinds
            raise CudaError(f"the GPU does not load the compiled kernels: {error}") from _cause(error)
        attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        for name, size in shared.items():
            handle = self._driver.CUkernel(int(kernels[name].handle))
            self._check(self._driver.cuKernelSetAttribute(attribute, size, handle, self._ordinal))
        return kernels

    def launch(self, kernel: Any, blocks: int, shared: int, network: int, call: int) -> None:
        """Starts a kernel, whose arguments are two pointers. All of its blocks run at the same time."""
        config = self._core.LaunchConfig(grid=blocks, block=THREADS, shmem_size=shared, is_cooperative=True)
        try:
            self._core.launch(self._stream, config, kernel, np.uint64(network), np.uint64(call))
        except Exception as error:  # cuda-core raises several kinds
            raise CudaError(f"the GPU does not start a call: {error}") from _cause(error)


@cache
def open_gpu() -> Gpu:
    """The process's GPU. Raises CudaError."""
    return Gpu()
