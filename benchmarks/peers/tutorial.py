"""The generating loops of TensorFlow's tutorial 'Text generation with an RNN': its classic one, and its later revision's."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from benchmarks.measure import START, log_softmax, rate_of
from trainer import network
from trainer.artifact import Architecture, Tensors
from trainer.vocabulary import Vocabulary


class Tutorial:
    """The classic loop: the stateful model with batch size 1, called eagerly once a character."""

    rounded = False

    def __init__(self, architecture: Architecture, tensors: Tensors) -> None:
        self._vocabulary = Vocabulary(architecture.vocabulary)
        self._model = network.build(architecture, batch_size=1)
        for name, variable in network.variables(self._model).items():
            variable.assign(tensors[name])

    def characters(self, start_string: str, temperature: float = 1.0) -> Iterator[int]:
        """Ids, without end. There is one state: another iterator must not run before this one is done with."""
        self._reset()
        inputs = tf.expand_dims(self._vocabulary.encode(start_string), 0)
        while True:
            predictions = tf.squeeze(self._model(inputs), 0) / temperature
            predicted = int(tf.random.categorical(predictions, num_samples=1)[-1, 0].numpy())
            inputs = tf.expand_dims([predicted], 0)
            yield predicted

    def _reset(self) -> None:
        for layer in self._model.layers[1:-1]:
            layer.reset_state()

    def rate(self, streams: int, seconds: float) -> float:
        if streams != 1:
            raise ValueError("the stateful model with batch size 1 has one stream")
        characters = self.characters(START)

        def call() -> int:
            next(characters)
            return 1

        return rate_of(call, seconds)

    def log_probabilities(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        self._reset()
        logits = self._model(tf.expand_dims(ids[:-1], 0))[0].numpy()
        return log_softmax(logits)[np.arange(len(ids) - 1), ids[1:]].astype(np.float32)


class OneStep:
    """The later revision's: a compiled function takes the last characters and the states, and gives the next ones of each.

    Its strings are left out: ids go in and come out, which spares it two look-ups a call.
    """

    rounded = False

    def __init__(self, architecture: Architecture, tensors: Tensors, temperature: float = 1.0) -> None:
        if architecture.cell != "gru" or architecture.layers != 1:
            raise NotImplementedError("written for one GRU layer")
        self._vocabulary, self._temperature = Vocabulary(architecture.vocabulary), temperature
        self._embedding = keras.layers.Embedding(len(self._vocabulary), architecture.embedding)
        self._gru = keras.layers.GRU(architecture.units, return_sequences=True, return_state=True)
        self._dense = keras.layers.Dense(len(self._vocabulary))
        self._advance(tf.zeros((1, 1), tf.int32), tf.zeros((1, architecture.units)))  # makes the weights
        self._embedding.set_weights([tensors["embedding"]])
        self._gru.set_weights([tensors[f"rnn.0.{name}"] for name in ("kernel", "recurrent_kernel", "bias")])
        self._dense.set_weights([tensors["dense.kernel"], tensors["dense.bias"]])
        self._units = architecture.units
        self.generate_one_step = tf.function(self._generate_one_step, reduce_retracing=True)

    def rate(self, streams: int, seconds: float) -> float:
        start = np.tile(self._vocabulary.encode(START), (streams, 1))
        ids, states = self.generate_one_step(tf.constant(start), tf.zeros((streams, self._units)))

        def call() -> int:
            nonlocal ids, states
            ids, states = self.generate_one_step(ids, states)
            return len(ids.numpy())

        return rate_of(call, seconds)

    def log_probabilities(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        logits, _ = self._advance(tf.expand_dims(ids[:-1], 0), tf.zeros((1, self._units)))
        return log_softmax(logits[0].numpy())[np.arange(len(ids) - 1), ids[1:]].astype(np.float32)

    def _generate_one_step(self, ids: tf.Tensor, states: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(ids [B, characters], states [B, units]) -> (next ids [B, 1], states)."""
        logits, states = self._advance(ids, states)
        return tf.random.categorical(logits[:, -1] / self._temperature, num_samples=1, dtype=tf.int32), states

    def _advance(self, ids: tf.Tensor, states: tf.Tensor) -> tuple[Any, Any]:
        """(ids [B, characters], states [B, units]) -> (logits [B, characters, vocabulary], states)."""
        outputs, states = self._gru(self._embedding(ids), initial_state=states)
        return self._dense(outputs), states
