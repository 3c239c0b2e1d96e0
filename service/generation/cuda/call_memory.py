"""The data of one call on a device: one block of memory, and one copy to it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.generation.cuda.layout import Memory


class CallMemory:
    """Memory that is used by one call after another, and grows with them."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self._pointer, self._capacity = memory, 0, 0
        self._size = 0
        self._parts: list[tuple[int, NDArray[Any]]] = []

    def begin(self, size: int) -> None:
        """Begins a call, whose arrays and results have at most `size` bytes together, each rounded up by `aligned`."""
        self._parts, self._size = [], 0
        if size > self._capacity:
            if self._capacity:
                self._memory.free(self._pointer)
            self._capacity = max(size, 2 * self._capacity)
            self._pointer = self._memory.reserve(self._capacity)

    def add(self, array: NDArray[Any]) -> int:
        """The address that the array will have on the device. The array's content may still change until `send`."""
        self._parts.append((self._size, np.ascontiguousarray(array)))
        return self.reserve(array.nbytes)

    def reserve(self, size: int) -> int:
        """The address of room for a result. To be called after all calls of `add`, because `send` copies what is before."""
        start = self._size
        self._size += aligned(size)
        if self._size > self._capacity:
            raise ValueError(f"the call needs more than {self._capacity} bytes")
        return self._pointer + start

    def send(self) -> None:
        last, array = self._parts[-1]
        host = np.empty(last + array.nbytes, np.uint8)
        for start, array in self._parts:
            host[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        self._memory.device.write(self._pointer, host)


def aligned(size: int) -> int:
    return -(-size // 16) * 16
