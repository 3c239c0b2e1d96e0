"""The backend `cuda`: the exact step on a GPU. The slots' states stay on the device."""

import logging

import numpy as np
from numpy.typing import NDArray

from service.generation import reference
from service.generation.backend import Batch
from service.generation.cuda.device import CudaError, Device
from service.generation.cuda.network import CudaNetwork
from service.generation.exact import Exact, Floats, check_histories
from service.generation.quantized import QuantizedNetwork, quantize
from service.generation.sampling import Sampling
from trainer.artifact import Architecture, Tensors

log = logging.getLogger(__name__)

CHECKED_STEPS = 6


class CudaBackend(Exact):
    """See `service.generation.backend.Backend`."""

    name = "cuda"

    def __init__(self, architecture: Architecture, tensors: Tensors, slots: int, device: Device) -> None:
        """Raises CudaError, also if the device does not give the bits of the reference."""
        self.slots = slots
        network = quantize(architecture, tensors)
        self._network = CudaNetwork(device, network, slots)
        check(self._network, network, slots)
        where = "in shared memory" if self._network.resident else "in the L2 cache"
        log.info("%s: %d multiprocessors, weights %s", device.name, device.processors, where)

    def _advance(self, batch: Batch) -> tuple[NDArray[np.int32], Floats, Floats | None]:
        check_histories(batch)
        for row, start in batch.starts.items():
            self._network.load(int(batch.slots[row]), start)
        wants_logits = np.full(len(batch.slots), batch.log_probabilities)
        inputs = batch.slots, batch.inputs, batch.forced, batch.uniforms, batch.sampling, batch.histories
        return self._network.advance(*inputs, batch.snapshot_at, wants_logits)


def check(on_device: CudaNetwork, network: QuantizedNetwork, slots: int) -> None:
    """Compares two short calls with the reference: one for each kernel. Raises CudaError if a bit differs."""
    rng = np.random.default_rng(0)
    for sampling in (Sampling(temperature=0.7), Sampling(top_p=0.9)):
        rows = min(slots, 2)
        states = rng.uniform(-1, 1, (rows, *network.state_shape)).astype(np.float32)
        inputs = rng.integers(0, network.vocabulary, rows).astype(np.int32)
        forced = np.full((CHECKED_STEPS, rows), -1, np.int32)
        uniforms = rng.random((CHECKED_STEPS, rows), np.float32)
        samplings, which = [sampling] * rows, np.arange(rows, dtype=np.int32)
        for slot in range(rows):
            on_device.load(slot, states[slot])
        chosen, _, _ = on_device.advance(
            which, inputs, forced, uniforms, samplings, {}, np.full(rows, -1, np.int32), np.zeros(rows, np.bool_)
        )
        expected, path, _ = reference.advance(network, states, inputs, forced, uniforms, samplings, {})
        same = all(on_device.state(slot).tobytes() == path[-1][slot].tobytes() for slot in range(rows))
        if not same or (chosen != expected).any():
            raise CudaError("the GPU computes other bits than the reference")
