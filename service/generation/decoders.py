"""Which decoder runs a version: chosen, opened and warmed."""

import numpy as np

from service.generation.decoder import Batch, Decoder
from trainer.artifact import Version


def open_decoder(version: Version, *, slots: int, chunk: int) -> Decoder:
    """The decoder for a version, warmed: its first call of `chunk` steps is behind it."""
    from service.generation.tensorflow_decoder import TensorFlowDecoder  # costs seconds and hundreds of MB: only where it is chosen

    decoder = TensorFlowDecoder(version.config, version.tensors, slots)
    decoder.decode(
        Batch(
            slots=np.zeros(1, np.int32),
            fresh=np.ones(1, bool),
            inputs=np.zeros(1, np.int32),
            forced=np.full((chunk, 1), -1, np.int32),
            uniforms=np.zeros((chunk, 1), np.float32),
            temperatures=np.ones(1),
        )
    )
    return decoder
