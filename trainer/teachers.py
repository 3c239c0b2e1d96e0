"""Published versions that teach a new network. Their predictions are the service's, the same bits on every machine."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.generation.exact import ExactBackend
from service.generation.native import Library
from service.generation.reference import exp
from trainer.artifact import Version

Floats = NDArray[np.float32]


class Teachers:
    """Networks that read the same texts, one text a row. Each row has its own teachers."""

    def __init__(self, versions: Sequence[Version], rows: int, library: Library | None) -> None:
        """versions: of the same vocabulary. library: see `trainer.served.find_library`."""
        self._networks = [ExactBackend(one.config, one.tensors, rows, library) for one in versions]
        self.rows, self.vocabulary = rows, len(versions[0].config.vocabulary)

    def __len__(self) -> int:
        return len(self._networks)

    def predict(self, characters: NDArray[np.int32], fresh: NDArray[np.bool_], teaches: NDArray[np.bool_]) -> Floats:
        """Reads a character of each row. Returns the probabilities of the next one, averaged over the row's teachers.

        characters: ids [rows]. fresh: the rows in which a text begins. teaches [teachers, rows]: which teachers a row has. That may
        change only where a text begins. Result: [rows, vocabulary].
        """
        mean = np.zeros((self.rows, self.vocabulary), np.float32)
        for network, rows in zip(self._networks, map(np.flatnonzero, teaches), strict=True):
            if len(rows):
                mean[rows] += softmax(network.read(rows.astype(np.int32), characters[rows], fresh[rows]))
        mean /= teaches.sum(0)[:, None].astype(np.float32)
        return mean


def softmax(logits: Floats) -> Floats:
    """Probabilities from logits [rows, vocabulary]. The sums are in the order of the ids, so they are the same on every machine."""
    weights: Floats = exp(logits - logits.max(1, keepdims=True))
    weights /= np.cumsum(weights, 1, np.float32)[:, -1:]
    return weights


def draw(probabilities: Floats, uniforms: Floats) -> NDArray[np.int32]:
    """For each row, the first id at which the cumulative probability exceeds `uniforms` [rows] times the total."""
    cumulative = np.cumsum(probabilities, 1, np.float32)
    reached = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(1)
    ids: NDArray[np.int32] = np.minimum(reached, probabilities.shape[1] - 1).astype(np.int32)
    return ids
