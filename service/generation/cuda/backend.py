"""The backend `cuda`: the exact step on a GPU. The slots' states stay on the device."""

import logging
from collections.abc import Sequence
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from service.generation import reference
from service.generation.backend import Batch
from service.generation.cuda.device import CudaError, Gpu
from service.generation.cuda.network import CudaNetwork
from service.generation.exact import Exact, Floats
from service.generation.quantized import QuantizedNetwork, quantize
from service.generation.sampling import History, Sampling
from trainer.artifact import Architecture, Tensors

log = logging.getLogger(__name__)

CHECKED_STEPS = 6


class CudaBackend(Exact):
    """See `service.generation.backend.Backend`."""

    name = "cuda"

    def __init__(self, architecture: Architecture, tensors: Tensors, slots: int, device: Gpu) -> None:
        """Raises CudaError, also if the device does not give the bits of the reference."""
        self.slots = slots
        network = quantize(architecture, tensors)
        self.network = CudaNetwork(device, network, slots)
        check(self.network, network, slots)
        where = "in shared memory" if self.network.resident else "in the L2 cache"
        log.info("%s: %d multiprocessors, weights %s", device.name, device.processors, where)

    def _advance(self, batch: Batch) -> tuple[NDArray[np.int32], Floats, Floats | None]:
        for row, start in batch.starts.items():
            self.network.load(int(batch.slots[row]), start)
        return self.network.advance(batch)


def check(on_device: CudaNetwork, network: QuantizedNetwork, slots: int) -> None:
    """Compares two short calls with the reference: one for each kernel. Raises CudaError if a bit differs."""
    for sampling in (Sampling(temperature=0.7), Sampling(top_p=0.9)):
        if not gives_the_references_bits(on_device, network, [sampling] * min(slots, 2), CHECKED_STEPS):
            raise CudaError("the GPU computes other bits than the reference")


def gives_the_references_bits(on_device: CudaNetwork, network: QuantizedNetwork, samplings: Sequence[Sampling], steps: int) -> bool:
    """Whether a call gives the same ids and states as the reference, from random states in the first slots."""
    rng, rows = np.random.default_rng(0), len(samplings)
    states = rng.uniform(-1, 1, (rows, *network.state_shape)).astype(np.float32)
    inputs = rng.integers(0, network.vocabulary, rows).astype(np.int32)
    batch = Batch(
        slots=np.arange(rows, dtype=np.int32),
        starts={},
        inputs=inputs,
        forced=np.where(rng.random((steps, rows)) < 0.2, rng.integers(0, network.vocabulary, (steps, rows)), -1).astype(np.int32),
        uniforms=rng.random((steps, rows), np.float32),
        sampling=samplings,
        snapshot_at=np.full(rows, -1, np.int32),
        histories={b: History.of(inputs[b : b + 1], network.vocabulary) for b, one in enumerate(samplings) if one.needs_history},
    )
    for slot, state in enumerate(states):
        on_device.load(slot, state)
    expected, _, _ = reference.advance(network, states, deepcopy(batch))
    chosen, _, _ = on_device.advance(batch)
    same_states = all(on_device.state(slot).tobytes() == state.tobytes() for slot, state in enumerate(states))
    return same_states and bool((chosen == expected).all())
