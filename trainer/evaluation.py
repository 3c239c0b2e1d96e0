"""Held-out nats per character: how well a network predicts a text it was not trained on.

Always two scores. `full_pass`: the state is carried over the whole text from its first character on. `cold_256`: windows of
256 characters, each from a zero state (nanoGPT's protocol); a last window that is not full is left out, unless it is the only one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Event
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer import network
from trainer.artifact import Architecture, Scores
from trainer.machine import SCORED_ROWS, count_rows, count_steps

COLD = 256  # characters in a window
WARM_UP = 1024  # characters a row reads before those it scores


@dataclass(frozen=True)
class Row:
    """A stretch of the text read from a zero state: reading begins at `start`, predictions first..end - 1 are scored."""

    start: int
    first: int
    end: int


class Evaluator:
    """Scores weights of one architecture; compiled once, called any number of times."""

    def __init__(self, architecture: Architecture, stop: Event | None = None) -> None:
        """Once `stop` is set, scoring raises KeyboardInterrupt."""
        self._architecture, self._stop = architecture, stop
        self._characters = len(architecture.vocabulary)
        self._forward = network.forward(architecture)
        self._functions: dict[int, Any] = {}  # by number of rows

    def scores(self, weights: Mapping[str, Any], ids: NDArray[Any], *, exact: bool = True) -> Scores:
        """Both scores of a text of at least two characters; weights: arrays, tensors or variables, by published name.

        With `exact`, one row reads the whole text in order. Otherwise 64 rows read a stretch of it each, after the 1024
        characters before it: some ten times faster, and the same but for what a state remembers from further back.
        """
        weights = {name: tf.convert_to_tensor(weight) for name, weight in weights.items()}  # once, not in every call
        return Scores(full_pass=self.full_pass(weights, ids, 1 if exact else SCORED_ROWS), cold_256=self.cold(weights, ids))

    def full_pass(self, weights: Mapping[str, Any], ids: NDArray[Any], rows: int = 1) -> float:
        """Nats per character with the state carried, the text cut into `rows` stretches that are read side by side."""
        predictions = len(ids) - 1
        length = -(-predictions // rows)
        firsts = range(0, predictions, length)
        stretches = [Row(max(0, first - WARM_UP), first, min(first + length, predictions)) for first in firsts]
        return self._mean(weights, ids, stretches)

    def cold(self, weights: Mapping[str, Any], ids: NDArray[Any]) -> float:
        """Nats per character over windows of 256, each read from a zero state."""
        predictions = len(ids) - 1
        length = min(COLD, predictions)
        firsts = range(0, predictions - length + 1, length)
        return self._mean(weights, ids, (Row(first, first, first + length) for first in firsts))

    def _mean(self, weights: Mapping[str, Any], ids: NDArray[Any], rows: Iterable[Row]) -> float:
        total, scored, rows = 0.0, 0, iter(rows)
        while group := list(islice(rows, count_rows(self._characters))):
            total += self._sum(weights, ids, group)
            scored += sum(row.end - row.first for row in group)
        return total / scored

    def _sum(self, weights: Mapping[str, Any], ids: NDArray[Any], rows: Sequence[Row]) -> float:
        """Nats of the predictions that `rows` score, added up in float64."""
        steps = max(row.end - row.start for row in rows)
        starts = np.array([row.start for row in rows])
        firsts, ends = np.array([row.first for row in rows]), np.array([row.end for row in rows])
        states, total = network.zero_states(self._architecture, len(rows)), 0.0
        nats_of, stride = self._compile(len(rows)), count_steps(len(rows), self._characters)
        for at in range(0, steps, stride):
            if self._stop is not None and self._stop.is_set():
                raise KeyboardInterrupt
            places = starts[:, None] + np.arange(at, min(at + stride, steps))
            read = ids[np.minimum(np.stack([places, places + 1]), len(ids) - 1)].astype(np.int32)
            nats, states = nats_of(weights, states, tf.constant(read[0]), tf.constant(read[1]))
            scored = (places >= firsts[:, None]) & (places < ends[:, None])
            total += float(nats.numpy()[scored].sum(dtype=np.float64))
        return total

    def _compile(self, rows: int) -> Any:
        """The function that scores so many rows: their number is known to the network, which runs many rows in parts.

        The number of steps is open, so that each function is traced once.
        """

        def nats(weights: Any, states: Any, inputs: tf.Tensor, targets: tf.Tensor) -> Any:
            logits, states = self._forward(weights, states, inputs)
            return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits), states

        if rows not in self._functions:
            self._functions[rows] = tf.function(nats, _signature(self._architecture, rows), autograph=False)
        return self._functions[rows]


def _signature(architecture: Architecture, rows: int) -> Any:
    weights = {name: tf.TensorSpec(shape) for name, shape in architecture.tensor_shapes.items()}
    characters = tf.TensorSpec((rows, None), tf.int32)  # [rows, steps]
    states = [tuple(tf.TensorSpec(part.shape) for part in state) for state in network.zero_states(architecture, rows)]
    return weights, states, characters, characters
