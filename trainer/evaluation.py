"""The held-out scores of a network as trained: in float32, by TensorFlow. `trainer.scoring` defines the scores."""

from functools import partial
from threading import Event
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer import network, scoring
from trainer.artifact import Architecture, Scores
from trainer.network import Weights
from trainer.scoring import Begin, Characters, Nats


class Evaluator:
    """Scores networks of one architecture. Its functions are compiled once."""

    def __init__(self, architecture: Architecture, stop: Event | None = None) -> None:
        """Scoring raises KeyboardInterrupt once `stop` is set."""
        self._architecture, self._stop = architecture, stop
        self._forward = network.forward(architecture)
        self._functions: dict[int, Any] = {}  # by number of rows

    def scores(self, weights: Weights, ids: NDArray[Any], *, exact: bool = True) -> Scores:
        """Both scores of a text of at least two characters.

        With `exact`, one row reads the whole text in order. Otherwise 64 rows read a part of it each, after the 1024 characters
        before that part. This is about ten times faster, and differs only by what a state remembers from further back.
        """
        vocabulary = len(self._architecture.vocabulary)
        return scoring.score(ids, self.begin(weights), vocabulary, 1 if exact else scoring.MAX_ROWS, self._stop)

    def begin(self, weights: Weights) -> Begin:
        """The network with these weights, for `scoring.score`."""
        return partial(self._begin, {name: tf.convert_to_tensor(weight) for name, weight in weights.items()})  # converted once

    def _begin(self, weights: Weights, rows: int) -> Nats:
        states, function = network.zero_states(self._architecture, rows), self._compile(rows)

        def nats(read: Characters, following: Characters) -> NDArray[np.float32]:
            nonlocal states
            result, states = function(weights, states, tf.constant(read), tf.constant(following))
            values: NDArray[np.float32] = result.numpy()
            return values

        return nats

    def _compile(self, rows: int) -> Any:
        """The function that scores this number of rows. The number of steps may vary, so it is traced once.

        The number of rows must be known: the forward pass splits many rows into shards.
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
