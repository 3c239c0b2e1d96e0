"""The reference generator: text from a network, one call per character, as in TensorFlow's tutorial."""

from typing import Any

import numpy as np
import tensorflow as tf

from trainer import network
from trainer.artifact import Architecture
from trainer.corpus import Corpus
from trainer.network import Weights
from trainer.vocabulary import Vocabulary


class Sampler:
    """Samples text from networks of one architecture.

    It reads the start string from a zero state, divides the last logits by the temperature, draws a character, and feeds that
    back. Draw i inverts the distribution's CDF at the i-th uniform number of Philox(seed), as the service does.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._architecture, self._vocabulary = architecture, Vocabulary(architecture.vocabulary)
        self._step = network.one_step(architecture)

    def sample(self, weights: Weights, start_string: str, characters: int, temperature: float, seed: int) -> str:
        """`start_string`, and `characters` more. weights: by published name."""
        tensors = {name: tf.convert_to_tensor(weight) for name, weight in weights.items()}  # once, not in each call
        uniforms = np.random.Generator(np.random.Philox(key=seed)).random(characters, np.float32)
        states: Any = network.zero_states(self._architecture, 1)
        unread, text = self._vocabulary.encode(start_string).tolist(), [start_string]
        for uniform in uniforms:
            for character in unread:
                logits, states = self._step(tensors, np.array([character], np.int32), states)
            scaled = logits.numpy()[0] / np.float32(temperature)
            cdf = np.cumsum(np.exp(scaled - scaled.max()))
            unread = [min(int((cdf <= uniform * cdf[-1]).sum()), len(self._vocabulary) - 1)]
            text.append(self._vocabulary.characters[unread[0]])
        return "".join(text)


def opening(text: Corpus, longest: int = 40) -> str:
    """The text's first line with its line ending, at most `longest` characters. Samples start from it."""
    return text.vocabulary.decode(text.ids[:longest].tolist()).splitlines(keepends=True)[0]
