"""The held-out scores of a network as it is trained: float32, by TensorFlow. `trainer.scoring` says what the scores are."""

from collections.abc import Mapping
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer import network
from trainer.artifact import Architecture, Scores
from trainer.resources import SCORED_ROWS
from trainer.scoring import Characters, Nats, Scorer


class Evaluator:
    """Scores weights of one architecture; compiled once, called any number of times."""

    def __init__(self, architecture: Architecture, stop: Event | None = None) -> None:
        """Once `stop` is set, scoring raises KeyboardInterrupt."""
        self._architecture, self._stop = architecture, stop
        self._forward = network.forward(architecture)
        self._functions: dict[int, Any] = {}  # by number of rows

    def scores(self, weights: Mapping[str, Any], ids: NDArray[Any], *, exact: bool = True) -> Scores:
        """Both scores of a text of at least two characters; weights: arrays, tensors or variables, by published name.

        With `exact`, one row reads the whole text in order. Otherwise 64 rows read a stretch of it each, after the 1024
        characters before it: some ten times faster, and the same but for what a state remembers from further back.
        """
        weights = {name: tf.convert_to_tensor(weight) for name, weight in weights.items()}  # once, not in every call
        scorer = Scorer(partial(self._begin, weights), len(self._architecture.vocabulary), self._stop)
        return scorer.scores(ids, rows=1 if exact else SCORED_ROWS)

    def _begin(self, weights: Mapping[str, tf.Tensor], rows: int) -> Nats:
        states, function = network.zero_states(self._architecture, rows), self._compile(rows)

        def nats(read: Characters, following: Characters) -> NDArray[np.float32]:
            nonlocal states
            found, states = function(weights, states, tf.constant(read), tf.constant(following))
            values: NDArray[np.float32] = found.numpy()
            return values

        return nats

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
