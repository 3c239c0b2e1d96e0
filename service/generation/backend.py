"""The interface between engine and network: advance some slots by some steps. Knows ids and slots, no requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from service.generation.sampling import History, Sampling

State = NDArray[np.float32]  # [states, units]: all that a network remembers of a text

STATES = {"gru": 1, "lstm": 2}  # state vectors a layer keeps: h; h and c
MAX_TOP_LOGPROBS = 20  # most characters that log-probabilities are given for, besides the chosen one


@dataclass(frozen=True)
class Batch:
    """The work of one iteration: B slots, each advanced by K steps.

    At each step the network takes a row's input and state. The first input is `inputs`, the others are what the step before
    chose. A step chooses `forced` where that is not negative; otherwise it samples. So one call can read a prompt and then
    generate, and scoring a text is a call that forces all of it.
    """

    slots: NDArray[np.int32]  # [B], distinct
    starts: Mapping[int, State | None]  # by row: the state to start from instead of the slot's own; None: zeros
    inputs: NDArray[np.int32]  # [B]
    forced: NDArray[np.int32]  # [K, B], -1 where the step samples
    uniforms: NDArray[np.float32]  # [K, B], in [0, 1); 0 where the temperature is 0
    sampling: Sequence[Sampling]  # B of them
    snapshot_at: NDArray[np.int32]  # [B]: steps after which to snapshot the row's state, 0 to K - 1; -1: no snapshot
    top_logprobs: int | None = None  # number of alternatives reported beside the chosen character; None: no log-probabilities
    logprob_rows: Sequence[int] | None = None  # the rows that log-probabilities are reported for; None: all
    histories: Mapping[int, History] = field(default_factory=dict)  # by row, where the sampling needs one; the call updates them

    def history(self, row: int) -> History | None:
        """The history of a row whose sampling needs one. Raises KeyError if it is missing."""
        return self.histories[row] if self.sampling[row].needs_history else None

    def part(self, rows: NDArray[np.intp]) -> Self:
        """The batch of some of the rows only."""
        places = dict(enumerate(rows.tolist()))
        return replace(
            self,
            slots=self.slots[rows],
            starts={b: self.starts[row] for b, row in places.items() if row in self.starts},
            inputs=self.inputs[rows],
            forced=self.forced[:, rows],
            uniforms=self.uniforms[:, rows],
            sampling=[self.sampling[row] for row in places.values()],
            snapshot_at=self.snapshot_at[rows],
            logprob_rows=None if self.logprob_rows is None else [b for b, row in places.items() if row in self.logprob_rows],
            histories={b: self.histories[row] for b, row in places.items() if row in self.histories},
        )


class LogProbabilities(NamedTuple):
    """Natural logarithms of softmax(logits), before temperature and all other sampling options.

    The leading shape is [K, rows] for a call, with its `logprob_rows`, and [characters] for a generation. N is `top_logprobs`,
    or the vocabulary's size if that is less.
    """

    chosen: NDArray[np.float32]  # [...]
    top_ids: NDArray[np.int32]  # [..., N], the likeliest first
    top_values: NDArray[np.float32]  # [..., N]


@dataclass(frozen=True)
class Decoded:
    """The result of one iteration."""

    chosen: NDArray[np.int32]  # [K, B]. An automaton may choose ids beyond the vocabulary, and -1 where it allows nothing
    snapshots: Mapping[int, State]  # by row, where `snapshot_at` asks for one
    log_probabilities: LogProbabilities | None  # if requested


class Backend(Protocol):
    """A network with a fixed number of slots. Each slot keeps a state from call to call."""

    name: str  # as in "native"
    precision: str  # of the weights and states in products, as in "int8"
    arithmetic: str  # backends of the same arithmetic give the same text for a version, a request and a seed
    slots: int

    def decode(self, batch: Batch) -> Decoded:
        """Advances the batch's slots.

        Sampling inverts the CDF: it chooses the first id whose cumulative probability exceeds the row's uniform number. One
        row's result does not depend on the others.
        """
        ...
