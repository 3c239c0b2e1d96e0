"""The machine's limit in float32: how fast any program could run the network step by step, going by two measured rates.

Counted: a step reads the recurrent and the output kernel once from wherever they lie (main memory or the last cache, whichever
they fit in), for all streams together; and each stream costs two floating-point operations for each weight of the two. So

    characters/s = streams / max(bytes / read bandwidth, streams * operations / product rate)

Not counted: the input product (a table row, once folded), gates, sampling, Python, waiting for threads. Less precise weights
are fewer bytes and faster products: bf16 and int8 may pass this limit.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.artifact import Architecture, Tensors
from trainer.machine import cores

ROWS = 2048  # of the product whose rate is measured: large enough that nothing but products counts


class Limit:
    """Measures both rates anew at each call of `rate`."""

    def __init__(self, architecture: Architecture, tensors: Tensors) -> None:
        if architecture.layers != 1:
            raise NotImplementedError(f"counts the products of one recurrent layer; the model has {architecture.layers}")
        self._kernel = tensors["rnn.0.recurrent_kernel"]
        weights = self._kernel.size + tensors["dense.kernel"].size
        self._bytes, self._operations = 4 * weights, 2 * weights
        self._rows = np.random.default_rng(0).normal(size=(ROWS, len(self._kernel))).astype(np.float32)
        self._products = [lambda: self._rows @ self._kernel, openvino_product(self._rows, self._kernel)]

    def rate(self, streams: int, seconds: float) -> float:
        """Characters/s of all streams; of the ways to read and to multiply the best counts. Takes about `seconds`."""
        bandwidth = self._bandwidth(seconds / 2)
        product_rate = max(self._product_rate(product, seconds / 2 / len(self._products)) for product in self._products)
        return streams / max(self._bytes / bandwidth, streams * self._operations / product_rate)

    def _bandwidth(self, seconds: float) -> float:
        """Bytes/s that all cores together read, each its own part of the recurrent kernel, over and over."""

        def dot(part: NDArray[np.float32]) -> object:
            half = len(part) // 2
            return np.dot(part[:half], part[half : 2 * half])

        return max(self._sweep(read, seconds / 2) for read in (np.min, dot))

    def _sweep(self, read: Callable[[NDArray[np.float32]], object], seconds: float) -> float:
        parts = np.array_split(self._kernel.ravel(), cores())
        swept = [0] * len(parts)  # bytes
        start = time.perf_counter()

        def run(core: int) -> None:
            while time.perf_counter() - start < seconds:
                read(parts[core])
                swept[core] += parts[core].nbytes

        threads = [threading.Thread(target=run, args=(core,)) for core in range(len(parts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(swept) / (time.perf_counter() - start)

    def _product_rate(self, product: Callable[[], object], seconds: float) -> float:
        """Floating-point operations/s of [ROWS, units] @ recurrent kernel."""
        product()
        start, products = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds or not products:
            product()
            products += 1
        return products * 2 * ROWS * self._kernel.size / passed


def openvino_product(rows: NDArray[np.float32], kernel: NDArray[np.float32]) -> Callable[[], object]:
    """rows @ kernel by OpenVINO, in float32."""

    import openvino as ov
    from openvino import opset13 as op

    x = op.parameter(rows.shape, np.float32)
    model = ov.Model([op.result(op.matmul(x, op.constant(kernel), False, False))], [x])
    request: Any = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    return lambda: request.infer([rows], share_inputs=True, share_outputs=True)
