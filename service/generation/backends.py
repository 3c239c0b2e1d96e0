"""Chooses, opens and warms up the backend that runs a version."""

import logging
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Literal, get_args

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
    """This machine cannot run the backend. The message gives the reason."""


@cache
def load_library() -> Library:
    """Loads the kernel and builds it first if necessary. Raises Unsupported."""
    if find() is None:
        log.info("building the kernel, which takes about ten seconds: this version of it has not been built yet")
    try:
        return Library(find_or_build())
    except (NoCompiler, OSError) as error:
        message = f"the native backend cannot run here: {error}. Install a C compiler, or run `make`, which downloads one"
        raise Unsupported(message) from error


@cache
def choose() -> BackendName:
    """`tensorflow` if it is installed and finds a GPU; else `native`, or `reference` if the kernel cannot be built."""
    # TensorFlow is imported only if a GPU's device node exists: the import takes seconds and hundreds of MB.
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
    """Opens and warms up the backend `name` for a version, with `slots` slots. Raises Unsupported."""
    if name not in get_args(BackendName):
        raise ValueError(f"there is no backend {name!r}; there are {', '.join(get_args(BackendName))}")
    backend: Backend
    if name == "tensorflow":
        try:
            from service.generation.tensorflow_backend import TensorFlowBackend
        except ModuleNotFoundError as error:
            raise Unsupported("the tensorflow backend needs TensorFlow: install the extra `trainer`, or `gpu`") from error
        backend = TensorFlowBackend(version.config, version.tensors, slots)
    else:
        backend = ExactBackend(version.config, version.tensors, slots, load_library() if name == "native" else None)
    # Warms up one row and a full batch, so that no first request waits for it. Only TensorFlow has graphs that differ by request.
    kinds = product((-1, 0), (Sampling(), Sampling(top_k=1))) if name == "tensorflow" else [(-1, Sampling())]
    for rows, (snapshot_at, sampling) in product((1, slots), kinds):
        backend.decode(
            Batch(
                slots=np.arange(rows, dtype=np.int32),
                starts=dict.fromkeys(range(rows)),
                inputs=np.zeros(rows, np.int32),
                forced=np.full((2, rows), -1, np.int32),
                uniforms=np.zeros((2, rows), np.float32),
                sampling=[sampling] * rows,
                snapshot_at=np.full(rows, snapshot_at, np.int32),
            )
        )
    return backend
