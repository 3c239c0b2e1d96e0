"""One interface for all that generates: Folio's backends, the peers, and the machine's limit. Each runs in a process of its own."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from benchmarks.apart import Apart, Failed, Missing
from benchmarks.measure import START, log_softmax, rate_of
from service.generation.backend import Backend, Batch
from service.generation.backends import BackendName, Unsupported, load_library, open_backend
from service.generation.core import EngineCore
from service.generation.exact import ExactBackend
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from trainer import artifact
from trainer.artifact import Version
from trainer.vocabulary import Vocabulary

MODEL = Path(__file__).parents[1] / "models" / "shakespeare"
PROBE = "First Citizen:\nBefore we proceed any further, hear me speak.\n"
SLOTS = 64  # of a backend that is to serve no more streams than that, as by the service's defaults

SINGLE = ("tutorial",)  # have one stream only
SYSTEMS = (
    "limit",
    "tutorial",
    "one_step",
    "torch",
    "reference",
    "native",
    "cuda",
)
BY_NAME = (
    "native-amx",
    "native-vnni",
    "native-avxvnni",
    "native-avx2",
    "native-dotprod",
    "native-portable",
)  # measured where they are asked for


class System(Protocol):
    """Generates by temperature 1 on the shipped model."""

    def rate(self, streams: int, seconds: float) -> float:
        """Characters/s of all streams together, over about `seconds`; reading start strings and warming up are not counted."""
        ...


@runtime_checkable
class Network(System, Protocol):
    """A system that can be asked what it says of a text, so whether it is the network that it should be."""

    @property
    def rounded(self) -> bool:
        """It computes in less than float32."""
        ...

    def log_probabilities(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """What the network says of each of the ids [characters] but the first, after those before it."""
        ...


def shipped() -> Version:
    """The newest version of the shipped model."""
    return artifact.read(MODEL / str(artifact.versions(MODEL)[-1]))


class Folio:
    """A backend of the service, driven by the service's `EngineCore`."""

    rounded = True

    def __init__(self, version: Version, name: str, *, chunk: int, call_seconds: float) -> None:
        """name: as in `SYSTEMS`, or "folio" for what the service chooses; the rest as for `service.generation.engine.Engine`.

        Raises Unsupported.
        """
        self._version, self._name = version, name
        self._chunk, self._call_seconds = chunk, call_seconds
        self._start = Vocabulary(version.config.vocabulary).encode(START)
        self._backends: dict[int, Backend] = {}
        self._backend(SLOTS)

    def rate(self, streams: int, seconds: float) -> float:
        core = EngineCore(self._backend(max(SLOTS, streams)), max_steps=self._chunk, iteration_seconds=self._call_seconds)
        core.submit(*(Generation(Prompt(self._start), 10**9, Sampling(), seed) for seed in range(streams)))
        return rate_of(lambda: sum(len(output.chunk.characters) for output in core.step()[0]), seconds)

    def log_probabilities(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        decoded = self._backend(SLOTS).decode(
            Batch(
                slots=np.zeros(1, np.int32),
                starts={0: None},
                inputs=ids[:1],
                forced=ids[1:, None],
                uniforms=np.zeros((len(ids) - 1, 1), np.float32),
                sampling=[Sampling()],
                snapshot_at=np.full(1, -1, np.int32),
                top_logprobs=0,
            )
        )
        if decoded.log_probabilities is None:
            raise RuntimeError("the backend gave no log-probabilities")
        return decoded.log_probabilities.chosen[:, 0]

    def _backend(self, slots: int) -> Backend:
        if slots not in self._backends:
            backend: BackendName
            match self._name.split("-"):
                case ["native", instructions]:
                    self._backends[slots] = open_native(self._version, slots, instructions)
                case [("native" | "reference" | "cuda") as backend]:
                    self._backends[slots] = open_backend(self._version, backend, slots=slots)
                case ["folio"]:
                    self._backends[slots] = open_backend(self._version, "auto", slots=slots)
                case _:
                    raise ValueError(f"no backend is called {self._name}")
        return self._backends[slots]


def open_native(version: Version, slots: int, instructions: str) -> Backend:
    """The native backend on an instruction set. Raises Unsupported."""
    try:
        return ExactBackend(version.config, version.tensors, slots, load_library(), instructions)
    except ValueError as error:
        raise Unsupported(str(error)) from error


def open_system(name: str, *, chunk: int, call_seconds: float) -> System:
    """One of SYSTEMS. Raises Missing if a package is not installed, or the machine cannot run the backend."""
    version = shipped()
    try:
        match name:
            case "limit":
                from benchmarks.limit import Limit

                return Limit(version.config, version.tensors)
            case "tutorial":
                from benchmarks.peers.tutorial import Tutorial

                return Tutorial(version.config, version.tensors)
            case "one_step":
                from benchmarks.peers.tutorial import OneStep

                return OneStep(version.config, version.tensors)
            case "torch":
                from benchmarks.peers.torch_gru import TorchGRU

                return TorchGRU(version.config, version.tensors)
            case _:
                return Folio(version, name, chunk=chunk, call_seconds=call_seconds)
    except ModuleNotFoundError as error:
        raise Missing(f"{error.name} is not installed") from error
    except Unsupported as error:
        raise Missing(str(error)) from error


class SystemProcess(Apart):
    """A system in a process of its own, checked to run the shipped network."""

    def __init__(self, name: str, *, chunk: int, call_seconds: float) -> None:
        """Raises Missing or Failed."""
        super().__init__(name, _checked, name, chunk, call_seconds)

    def rate(self, streams: int, seconds: float) -> float:
        """See `System.rate`. Raises Failed."""
        return float(self.call("rate", streams, seconds))


def check_network(name: str, network: Network, version: Version) -> None:
    """Raises Failed when it says of the probe what the shipped network does not say: its speed would be another network's."""
    ids = Vocabulary(version.config.vocabulary).encode(PROBE)
    differences = network.log_probabilities(ids) - reference(version, ids)
    # Less precision moves single characters both ways, but the mean hardly.
    worst, bound = (abs(differences.mean()), 0.02) if network.rounded else (np.abs(differences).max(), 1e-3)
    if not worst <= bound:
        raise Failed(f"{name} does not run the shipped network: off by {worst:.2g} nats, more than {bound}")


def reference(version: Version, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """Log-probabilities of all ids but the first, in float64 by the formulas of Keras's GRU (reset_after) of one layer."""
    if version.config.cell != "gru" or version.config.layers != 1:
        raise NotImplementedError("the peers are written for one GRU layer")
    tensors = {name: tensor.astype(np.float64) for name, tensor in version.tensors.items()}
    state, said = np.zeros(version.config.units), []
    for character, following in pairwise(ids):
        x = np.split(tensors["embedding"][character] @ tensors["rnn.0.kernel"] + tensors["rnn.0.bias"][0], 3)
        g = np.split(state @ tensors["rnn.0.recurrent_kernel"] + tensors["rnn.0.bias"][1], 3)
        z, r = (1 / (1 + np.exp(-(x[gate] + g[gate]))) for gate in (0, 1))
        state = z * state + (1 - z) * np.tanh(x[2] + r * g[2])
        said.append(log_softmax(state @ tensors["dense.kernel"] + tensors["dense.bias"])[following])
    return np.array(said)


def _checked(name: str, chunk: int, call_seconds: float) -> System:
    """In the process: the system. Raises Missing or Failed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    system = open_system(name, chunk=chunk, call_seconds=call_seconds)
    if isinstance(system, Network):
        check_network(name, system, shipped())
    return system
