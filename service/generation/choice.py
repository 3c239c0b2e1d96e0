"""Which decoder runs a version: chosen, opened and warmed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from service.generation.decoder import Batch, Decoder
from trainer.artifact import Version

DecoderName = Literal["openvino", "tensorflow"]


def choose() -> DecoderName:
    """TensorFlow where it is installed and sees a GPU, else OpenVINO, else TensorFlow on the CPU.

    A GPU's device node is looked for first: importing TensorFlow costs seconds and hundreds of MB.
    """
    if find_spec("tensorflow") and any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg")):
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return "tensorflow"
    return "openvino" if find_spec("openvino") else "tensorflow"


def open_decoder(version: Version, name: DecoderName, *, slots: int, chunk: int) -> Decoder:
    """The decoder `name` for a version, warmed: its first call of `chunk` steps is behind it."""
    decoder: Decoder
    if name == "openvino":
        from service.generation.openvino_decoder import OpenVINODecoder

        decoder = OpenVINODecoder(version.config, version.tensors, slots)
    else:
        from service.generation.tensorflow_decoder import TensorFlowDecoder

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
