"""The held-out scores of a network as served: the service computes in int8. `trainer.scoring` defines the scores.

This module, `trainer.sampling`, `trainer.teachers` and `trainer.scan_library`, which loads the kernel, are the only ones of the
trainer that know the service.
"""

from collections.abc import Callable
from functools import partial
from threading import Event
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from service.generation.backend import Batch, LogProbabilities
from service.generation.backends import Unsupported, load_library
from service.generation.exact import ExactBackend
from service.generation.native import Library
from service.generation.sampling import Sampling
from trainer.artifact import Architecture, PublishedScores, Scores, Tensors
from trainer.scoring import MAX_ROWS, Begin, Characters, Nats, count_rows, score

TOLERANCE = 0.002  # nats per character between the scores as trained and as served


def find_library(log: Callable[[str], None]) -> Library | None:
    """The service's compiled step. Where it can't be built, logs the reason and returns None."""
    try:
        return load_library()
    except Unsupported as error:
        log(f"{error}. NumPy computes the scores as served instead. It is slower, so their full_pass is an estimate")
        return None


def served_scores(
    architecture: Architecture, tensors: Tensors, ids: NDArray[Any], library: Library | None, stop: Event | None = None
) -> Scores:
    """Both scores of a text of at least two characters. Raises KeyboardInterrupt once `stop` is set.

    Without a library, NumPy computes the same step. It takes about a millisecond per character of a row, so 64 rows read a part
    of the text each, after the 1024 characters before that part.
    """
    begin = served_begin(architecture, tensors, library)
    return score(ids, begin, len(architecture.vocabulary), rows_of(library), stop)


def served_begin(architecture: Architecture, tensors: Tensors, library: Library | None) -> Begin:
    """The network, for `trainer.scoring.score`."""
    return partial(_begin, ExactBackend(architecture, tensors, count_rows(len(architecture.vocabulary)), library))


def rows_of(library: Library | None) -> int:
    """The rows of full_pass: one, which is exact, where it is fast enough."""
    return MAX_ROWS if library is None else 1


def compare(scores: PublishedScores) -> str | None:
    """A warning if the scores as trained and as served differ by more than TOLERANCE."""
    trained, served = scores, scores.as_served or Scores()
    pairs = {name: (getattr(trained, name), getattr(served, name)) for name in Scores.model_fields}
    known = {name: pair for name, pair in pairs.items() if None not in pair}
    if all(abs(b - a) <= TOLERANCE for a, b in known.values()):
        return None
    figures = ", ".join(f"{name} is {b:.4f} as served, {a:.4f} as trained" for name, (a, b) in known.items())
    return f"the service computes in int8, which changes this network's held-out scores by more than {TOLERANCE}: {figures}"


def _begin(backend: ExactBackend, rows: int) -> Nats:
    slots, sampling, snapshot_at = np.arange(rows, dtype=np.int32), [Sampling()] * rows, np.full(rows, -1, np.int32)
    starts = dict.fromkeys(range(rows))  # zero states, for the first call only

    def nats(read: Characters, following: Characters) -> NDArray[np.float32]:
        nonlocal starts
        forced = following.T
        batch = Batch(slots, starts, read[:, 0], forced, np.zeros(forced.shape, np.float32), sampling, snapshot_at, top_logprobs=0)
        starts = {}
        return -cast("LogProbabilities", backend.decode(batch).log_probabilities).chosen.T

    return nats
