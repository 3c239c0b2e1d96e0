"""The start string and the measurement of speed that all systems share."""

import time
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

START = "ROMEO: "
WARM_UP = 0.3  # seconds of generating ahead of each measurement


class Call(Protocol):
    def __call__(self) -> int:
        """Advances all streams; how many characters that gave."""
        ...


def rate_of(call: Call, seconds: float) -> float:
    """Characters/s of calls over `seconds`, after calls over WARM_UP that are not counted."""
    start = time.perf_counter()
    while time.perf_counter() - start < WARM_UP:
        call()
    start, characters = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        characters += call()
    return characters / passed


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis."""
    shifted: NDArray[np.float64] = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted
