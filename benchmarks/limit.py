"""The machine's limit in int8: how fast any program could run the exact step, going by three measured rates.

Counted: a step reads the recurrent and the output kernel, a byte a weight, once for all streams together, from wherever they lie
(a core's own cache, a shared one, or memory); each stream costs a product for each weight, and three exponentials for each unit.
Reading goes on beside the arithmetic. So

    characters/s = streams / max(bytes / read rate, streams * (products / product rate + exponentials / exponential rate))

Not counted: the rest of the gates, sampling, Python, waiting for threads.
"""

import ctypes
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.generation.backends import load_library
from service.generation.kernel.build import FLAGS, INSTRUCTIONS, NoCompiler, compilers, machine_name
from trainer.artifact import Architecture, Tensors
from trainer.resources import cores

SOURCE = Path(__file__).with_name("limit.c")
EXPONENTIALS = 3  # of a GRU's unit: two gates and the candidate


class Limit:
    """Measures all rates anew at each call of `rate`."""

    def __init__(self, architecture: Architecture, tensors: Tensors) -> None:
        """Raises Unsupported or NoCompiler."""
        if (architecture.cell, architecture.layers) != ("gru", 1):
            raise NotImplementedError("counts the products of one GRU layer")
        self._weights = tensors["rnn.0.recurrent_kernel"].size + tensors["dense.kernel"].size
        self._units = architecture.units
        self._library = _build(load_library().instructions[0])

    def rate(self, streams: int, seconds: float) -> float:
        """Characters/s of all streams. Takes about `seconds`."""
        reading = self._weights / self._read_rate(seconds / 3)
        multiplying = self._weights / self._all_cores(self._library.multiply, seconds / 3)
        exponentials = EXPONENTIALS * self._units / self._all_cores(self._library.exponentials, seconds / 3)
        return streams / max(reading, streams * (multiplying + exponentials))

    def _read_rate(self, seconds: float) -> float:
        """Bytes/s that all cores together read, each its own part of the kernels, over and over."""
        parts = [_aligned(self._weights // cores()) for _ in range(cores())]

        def read(core: int) -> int:
            self._library.read_bytes(parts[core].ctypes.data, len(parts[core]), 4)
            return 4 * len(parts[core])

        return _together(read, seconds)

    def _all_cores(self, function: Any, seconds: float, times: int = 2000) -> float:
        """What all cores together get done in a second."""
        return _together(lambda _: times * int(function(times)), seconds)


def _together(work: Callable[[int], int], seconds: float) -> float:
    """Units of work a second, of a thread for each core."""
    done = [0] * cores()
    start = time.perf_counter()

    def run(core: int) -> None:
        done[core] += work(core)  # at least once
        while time.perf_counter() - start < seconds:
            done[core] += work(core)

    threads = [threading.Thread(target=run, args=(core,)) for core in range(len(done))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def _aligned(size: int) -> NDArray[np.int8]:
    """So many bytes from the beginning of a cache line, or a few less. At least 256."""
    room = np.ones(max(size, 256) + 64, np.int8)
    return room[-room.ctypes.data % 64 :][: max(size // 256, 1) * 256]


def _build(instructions: str) -> Any:
    """limit.c for the instruction set. Raises NoCompiler."""
    found = compilers()
    if not found:
        raise NoCompiler("there is no C compiler")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "limit.so"
        flags = [*FLAGS, *INSTRUCTIONS.get(machine_name(), {"portable": ()})[instructions], f"-DINSTRUCTIONS={instructions}_limit"]
        command = [*found[0], *flags, "-Wno-unused-function", "-shared", str(SOURCE), "-o", str(library)]
        subprocess.run(command, check=True)
        loaded: Any = ctypes.CDLL(str(library))
    loaded.read_bytes.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    loaded.read_bytes.restype = ctypes.c_int64
    loaded.multiply.argtypes = loaded.exponentials.argtypes = [ctypes.c_long]
    return loaded
