"""The network: Embedding, recurrent layers, Dense, as a plain Keras model of any batch size.

Also the names its tensors have in a published version. Knows nothing of training or of files.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from trainer.artifact import Architecture

LAYERS = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}


def build(architecture: Architecture, batch_size: int) -> keras.Model:
    """A stateful network: int32 ids [batch_size, steps] -> logits [batch_size, steps, vocabulary].

    The state is kept from call to call until `reset_state(network)`. The reference's network is one GRU of 1024 units
    over an embedding of 256 (TensorFlow's tutorial 'Text generation with an RNN').
    """
    recurrent = LAYERS[architecture.cell]
    return keras.Sequential(
        [
            keras.Input(batch_shape=(batch_size, None), dtype="int32"),
            keras.layers.Embedding(len(architecture.vocabulary), architecture.embedding),
            *(
                recurrent(architecture.units, return_sequences=True, stateful=True, recurrent_initializer="glorot_uniform")
                for _ in range(architecture.layers)
            ),
            keras.layers.Dense(len(architecture.vocabulary)),
        ]
    )


def recurrent_layers(network: keras.Model) -> list[Any]:
    return list(network.layers[1:-1])


def reset_state(network: keras.Model) -> None:
    for layer in recurrent_layers(network):
        layer.reset_state()


def tensors(network: keras.Model) -> dict[str, NDArray[np.float32]]:
    """The network's weights under their published names (see `trainer.artifact`)."""
    return {name: variable.numpy() for name, variable in _variables(network).items()}


def load(network: keras.Model, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Sets every weight from `weights`, by published name; a network of any batch size takes them."""
    for name, variable in _variables(network).items():
        variable.assign(weights[name])


def _variables(network: keras.Model) -> dict[str, Any]:
    embedding, *recurrent, dense = network.layers
    named = {"embedding": embedding.embeddings}
    for i, layer in enumerate(recurrent):
        named[f"rnn.{i}.kernel"] = layer.cell.kernel
        named[f"rnn.{i}.recurrent_kernel"] = layer.cell.recurrent_kernel
        named[f"rnn.{i}.bias"] = layer.cell.bias
    return named | {"dense.kernel": dense.kernel, "dense.bias": dense.bias}
