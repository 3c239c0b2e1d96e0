"""Which decoder runs a version, and how precisely: chosen, opened and warmed."""

from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from service.generation.decoder import Batch, Decoder, Precision
from service.generation.exact_decoder import ExactDecoder
from service.generation.kernel.build import NoCompiler, find_or_build
from service.generation.native import Library
from service.generation.sampling import Sampling
from trainer.artifact import Version

DecoderName = Literal["native", "reference", "openvino", "tensorflow"]


class Unsupported(Exception):
    """This decoder has no such precision on this machine; the message says which it has."""


@cache
def load_library() -> Library:
    """The kernel, built now if it was not. Raises Unsupported."""
    try:
        return Library(find_or_build())
    except (NoCompiler, OSError) as error:
        raise Unsupported(f"the native decoder can't be had here: {error}") from error


def choose() -> DecoderName:
    """TensorFlow where it is installed and sees a GPU, else OpenVINO, else TensorFlow on the CPU.

    A GPU's device node is looked for first: importing TensorFlow costs seconds and hundreds of MB.
    """
    if find_spec("tensorflow") and any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg")):
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return "tensorflow"
    return "openvino" if find_spec("openvino") else "tensorflow"


def precisions(name: DecoderName) -> list[Precision]:
    """Those that the decoder has on this machine, its default first: bf16 where the CPU computes in it, else f32."""
    if name == "tensorflow":
        return ["f32"]
    if name in ("native", "reference"):
        return ["int8"]
    from service.generation.openvino_decoder import has_bf16

    return ["bf16", "f32", "int8"] if has_bf16() else ["f32", "int8"]


def open_decoder(version: Version, name: DecoderName, precision: Precision | None, *, slots: int) -> Decoder:
    """The decoder `name` for a version, warmed. precision None takes the first of `precisions`; raises Unsupported."""
    available = precisions(name)
    if precision is not None and precision not in available:
        raise Unsupported(f"{name} does not support precision {precision} on this machine; there are: {', '.join(available)}")
    decoder: Decoder
    if name == "native":
        decoder = ExactDecoder(version.config, version.tensors, slots, load_library())
    elif name == "reference":
        decoder = ExactDecoder(version.config, version.tensors, slots, None)
    elif name == "openvino":
        from service.generation.openvino_decoder import OpenVINODecoder

        decoder = OpenVINODecoder(version.config, version.tensors, slots, precision or available[0])
    else:
        from service.generation.tensorflow_decoder import TensorFlowDecoder

        decoder = TensorFlowDecoder(version.config, version.tensors, slots)
    # So that whatever a first request needs, alone or among others, has been built and run once.
    for rows, keep, sampling in product((1, slots), (-1, 0), (Sampling(), Sampling(top_k=1))):
        decoder.decode(
            Batch(
                slots=np.arange(rows, dtype=np.int32),
                starts=dict.fromkeys(range(rows)),
                inputs=np.zeros(rows, np.int32),
                forced=np.full((2, rows), -1, np.int32),
                uniforms=np.zeros((2, rows), np.float32),
                sampling=[sampling] * rows,
                keep=np.full(rows, keep, np.int32),
            )
        )
    return decoder
