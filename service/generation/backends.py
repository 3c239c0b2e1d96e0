"""Which backend runs a version: chosen, opened and warmed."""

import logging
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from service.generation.backend import Backend, Batch
from service.generation.exact import ExactBackend
from service.generation.kernel.build import NoCompiler, find, find_or_build
from service.generation.native import Library
from service.generation.sampling import Sampling
from trainer.artifact import Version

log = logging.getLogger(__name__)

BackendName = Literal["native", "reference", "tensorflow"]


class Unsupported(Exception):
    """This machine cannot run the backend; the message says why."""


@cache
def load_library() -> Library:
    """The kernel, built first if necessary. Raises Unsupported."""
    if find() is None:
        log.info("the kernel has not been built for this version yet: building it takes some ten seconds")
    try:
        return Library(find_or_build())
    except (NoCompiler, OSError) as error:
        message = f"the native backend cannot run here: {error}. Install a C compiler, or run `make`, which downloads one"
        raise Unsupported(message) from error


@cache
def choose() -> BackendName:
    """`tensorflow` where it is installed and sees a GPU, else `native`, or `reference` where the kernel cannot be built.

    A GPU's device node is looked for first: importing TensorFlow costs seconds and hundreds of MB.
    """
    if find_spec("tensorflow") and any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg")):
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return "tensorflow"
    try:
        load_library()
    except Unsupported as error:
        log.warning("%s. The reference backend gives the same texts, but is much slower", error)
        return "reference"
    return "native"


def open_backend(version: Version, name: BackendName, *, slots: int) -> Backend:
    """The backend `name` for a version, warmed. Raises Unsupported."""
    backend: Backend
    if name == "tensorflow":
        try:
            from service.generation.tensorflow_backend import TensorFlowBackend
        except ModuleNotFoundError as error:
            raise Unsupported("the tensorflow backend needs TensorFlow: install the extra `trainer`, or `gpu`") from error
        backend = TensorFlowBackend(version.config, version.tensors, slots)
    else:
        backend = ExactBackend(version.config, version.tensors, slots, load_library() if name == "native" else None)
    # So that whatever a first request needs, alone or among others, has been built and run once. Only graphs differ by request.
    kinds = product((-1, 0), (Sampling(), Sampling(top_k=1))) if name == "tensorflow" else [(-1, Sampling())]
    for rows, (keep, sampling) in product((1, slots), kinds):
        backend.decode(
            Batch(
                slots=np.arange(rows, dtype=np.int32),
                starts=dict.fromkeys(range(rows)),
                inputs=np.zeros(rows, np.int32),
                forced=np.full((2, rows), -1, np.int32),
                uniforms=np.zeros((2, rows), np.float32),
                sampling=[sampling] * rows,
                snapshot_at=np.full(rows, keep, np.int32),
            )
        )
    return backend
