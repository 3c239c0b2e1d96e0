"""Chooses, opens and warms up the backend that runs a version."""

import logging
from functools import cache
from itertools import product
from typing import Literal, get_args

import numpy as np

from service.generation.backend import Backend, Batch
from service.generation.cuda.device import CudaError, has_device, is_installed, open_gpu
from service.generation.exact import ExactBackend
from service.generation.kernel.build import NoCompiler, find, find_or_build
from service.generation.native import Library
from service.generation.sampling import Sampling
from trainer.artifact import Version

log = logging.getLogger(__name__)

BackendName = Literal["native", "reference", "cuda"]


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
        message = f"the native backend cannot run here: {error}. Install a C compiler; in a clone, `make serve` downloads one"
        raise Unsupported(message) from error


@cache
def choose() -> BackendName:
    """`cuda` if there is a GPU and its packages are installed; else `native`, or `reference` if the kernel cannot be built."""
    if has_device():
        if is_installed():
            return "cuda"
        log.warning("there is a GPU, but the packages that use it are not installed: install the extra `cuda`")
    return choose_without_gpu()


def choose_without_gpu() -> BackendName:
    try:
        load_library()
    except Unsupported as error:
        log.warning("%s. The reference backend gives the same texts, but is much slower", error)
        return "reference"
    return "native"


def open_backend(version: Version, name: BackendName | Literal["auto"], *, slots: int) -> Backend:
    """Opens and warms up a backend for a version, with `slots` slots. Raises Unsupported.

    auto: see `choose`. If the GPU turns out to be unusable, a backend without a GPU is opened, with a warning.
    """
    if name != "auto" and name not in get_args(BackendName):
        raise ValueError(f"there is no backend {name!r}; there are {', '.join(get_args(BackendName))}")
    if name == "auto" and choose() == "cuda":
        try:
            return _open_and_warm_up(version, "cuda", slots)
        except Unsupported as error:
            log.warning("%s. The model runs on the CPU instead", error)
            return _open_and_warm_up(version, choose_without_gpu(), slots)
    return _open_and_warm_up(version, choose() if name == "auto" else name, slots)


def _open_and_warm_up(version: Version, name: BackendName, slots: int) -> Backend:
    backend: Backend
    try:
        if name == "cuda":
            from service.generation.cuda.backend import CudaBackend

            backend = CudaBackend(version.config, version.tensors, slots, open_gpu())
        else:
            backend = ExactBackend(version.config, version.tensors, slots, load_library() if name == "native" else None)
        _warm_up(backend)
    except CudaError as error:
        raise Unsupported(f"the cuda backend cannot run here: {error}") from error.__cause__ or error
    return backend


def _warm_up(backend: Backend) -> None:
    # Warms up one row and a full batch, so that no first request waits for it. On a GPU each kernel runs once, which shows whether
    # the device can run it.
    options = (Sampling(), Sampling(top_k=1)) if backend.name == "cuda" else (Sampling(),)
    for rows, sampling in product((1, backend.slots), options):
        backend.decode(
            Batch(
                slots=np.arange(rows, dtype=np.int32),
                starts=dict.fromkeys(range(rows)),
                inputs=np.zeros(rows, np.int32),
                forced=np.full((2, rows), -1, np.int32),
                uniforms=np.zeros((2, rows), np.float32),
                sampling=[sampling] * rows,
                snapshot_at=np.full(rows, -1, np.int32),
            )
        )
