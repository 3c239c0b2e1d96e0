"""The decoder on OpenVINO, for CPUs, with no TensorFlow in the process.

States are on the host: a few KB a slot, gathered for a call and put back after it. There are two graphs (`openvino_graph`).
The plain one knows temperatures only and is compiled for some batch sizes; the full one takes any batch and can do
everything. A row gets the same bits from both, so a request that asks for more changes nothing for its neighbours.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from service.generation.decoder import STATES, Batch, Decoded, LogProbabilities, Precision
from service.generation.openvino_graph import Network, full_loop, plain_loop
from service.generation.sampling import SamplingArrays, inverse_temperatures
from trainer.artifact import Architecture, Tensors
from trainer.machine import cores


class OpenVINODecoder:
    """See `service.generation.decoder.Decoder`."""

    name = "openvino"

    def __init__(self, architecture: Architecture, tensors: Tensors, slots: int, precision: Precision) -> None:
        """precision: f32; bf16 where `has_bf16()`; int8 rounds the recurrent kernels and computes in float32."""
        self.slots, self.precision, self.arithmetic = slots, precision, f"{self.name}-{precision}"
        self._vocabulary = len(architecture.vocabulary)
        self._states = np.zeros((slots, STATES[architecture.cell] * architecture.layers, architecture.units), np.float32)
        core, network = ov.Core(), Network(architecture, tensors, precision)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": cores(),
        }

        def compiled(size: int | None) -> Any:
            """The plain loop for a batch of that size; without one, the full loop for any."""
            model = full_loop(network) if size is None else plain_loop(network)
            if size is not None:
                shapes = [[size, *self._states.shape[1:]], [size], [-1, size], [-1, size], [size, 1]]
                model.reshape(dict(zip(model.inputs, shapes, strict=True)))
            return core.compile_model(model, "CPU", options).create_infer_request()

        # A graph compiled for the batch it gets is faster than one for any batch.
        sizes = batch_sizes(slots)
        with ThreadPoolExecutor(cores()) as pool:
            self._full, *plain = pool.map(compiled, [None, *sizes])
        self._plain = dict(zip(sizes, plain, strict=True))

    def decode(self, batch: Batch) -> Decoded:
        count = len(batch.slots)
        states = self._states[batch.slots]
        for row, start in batch.starts.items():
            states[row] = 0 if start is None else start
        size = next(size for size in self._plain if size >= count)
        if batch.plain and worth_padding(count, size):
            arguments = [
                padded(states, size, 0),
                padded(batch.inputs, size, 0),
                padded(batch.forced, size, 1),
                padded(batch.uniforms, size, 1),
                padded(inverse_temperatures(batch.sampling), size, 0),
            ]
            chosen, after = self._plain[size].infer(arguments, share_inputs=True, share_outputs=True).values()
            self._states[batch.slots] = after[:count]
            return Decoded(chosen[:, :count].copy(), {}, None)

        sampling = SamplingArrays.of(batch.sampling, self._vocabulary)
        arguments = [
            states,
            batch.inputs,
            batch.forced,
            batch.uniforms,
            sampling.inverse_temperatures,
            sampling.bias,
            np.array(any(row.restricted for row in batch.sampling)),
            sampling.top_k,
            sampling.top_p,
            sampling.min_p,
            np.array(batch.log_probabilities),
            batch.keep[:, None].astype(np.int64),
        ]
        results = self._full.infer(arguments, share_inputs=True, share_outputs=True).values()
        chosen, own, likeliest, values, after, copies = results
        self._states[batch.slots] = after
        return Decoded(
            chosen.copy(),
            {int(row): copies[row].copy() for row in np.flatnonzero(batch.keep >= 0)},
            LogProbabilities(own.copy(), likeliest.copy(), values.copy()) if batch.log_probabilities else None,
        )


def has_bf16() -> bool:
    """The CPU computes in bfloat16."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def batch_sizes(slots: int) -> list[int]:
    """1, 2, 4, 8 and `slots`. Between those, a graph for one size gains too little over the one for any to be worth its memory."""
    return sorted({size for size in (1, 2, 4, 8) if size < slots} | {slots})


def worth_padding(count: int, size: int) -> bool:
    """`count` rows are faster padded to a graph for `size` than in the graph for any number of rows.

    A padding row costs what any other does: they may be a quarter of all, or a single one.
    """
    return size - count <= max(size / 4, 1)


def padded(values: NDArray[Any], size: int, axis: int) -> NDArray[Any]:
    """The values with zeros added at the end of an axis, up to `size`."""
    if values.shape[axis] == size:
        return values
    return np.pad(values, [(0, size - length if i == axis else 0) for i, length in enumerate(values.shape)])
