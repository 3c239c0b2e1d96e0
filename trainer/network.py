"""The network: Embedding, recurrent layers, Dense, as a plain Keras model of any batch size.

Also the published names of its tensors, and the network as a function of its weights. Knows nothing of training or files.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer import recurrence
from trainer.artifact import Architecture
from trainer.recurrence import States

LAYERS = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}  # the rest of what a cell is: recurrence.CELLS

Forward = Callable[..., tuple[tf.Tensor, States]]
"""(weights by published name, states, characters int32 [batch, steps], output_masks=None) -> (logits [batch, steps, vocabulary],
states after), all float32. output_masks: each layer's outputs are multiplied by its mask, [batch, units], at every step."""


def build(architecture: Architecture, batch_size: int) -> keras.Model:
    """A stateful network: int32 ids [batch_size, steps] -> logits [batch_size, steps, vocabulary].

    It keeps its state from call to call until `reset_state(network)`. The reference's network is one GRU of 1024 units over
    an embedding of 256 (TensorFlow's tutorial 'Text generation with an RNN').
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


def one_step(network: keras.Model) -> Callable[..., tuple[tf.Tensor, Any]]:
    """(ids int32 [batch], states) -> (logits [batch, vocabulary], states after): one character, by Keras's cells.

    For a single character it is several times faster than the network, whose layers run a loop over characters.
    """
    embedding, dense = network.layers[0], network.layers[-1]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(ids: tf.Tensor, states: Any) -> Any:
        x, after = embedding(ids), []
        for layer, state in zip(recurrent_layers(network), states, strict=True):
            x, last = layer.cell(x, state)
            after.append(last)
        return dense(x), after

    return step  # type: ignore[no-any-return]


def tensors(network: keras.Model) -> dict[str, NDArray[np.float32]]:
    """The network's weights under their published names (see `trainer.artifact`)."""
    return {name: variable.numpy() for name, variable in variables(network).items()}


def load(network: keras.Model, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Sets every weight by its published name; weights fit a network of any batch size."""
    for name, variable in variables(network).items():
        variable.assign(weights[name])


def variables(network: keras.Model) -> dict[str, Any]:
    """The network's weights as Keras holds them, by published name."""
    embedding, *recurrent, dense = network.layers
    named = {"embedding": embedding.embeddings}
    for i, layer in enumerate(recurrent):
        named[f"rnn.{i}.kernel"] = layer.cell.kernel
        named[f"rnn.{i}.recurrent_kernel"] = layer.cell.recurrent_kernel
        named[f"rnn.{i}.bias"] = layer.cell.bias
    return named | {"dense.kernel": dense.kernel, "dense.bias": dense.bias}


def zero_states(architecture: Architecture, batch_size: int) -> States:
    parts = recurrence.CELLS[architecture.cell].STATE
    return [tuple(tf.zeros((batch_size, architecture.units)) for _ in range(parts)) for _ in range(architecture.layers)]


def forward(architecture: Architecture, operands: tf.DType = tf.float32) -> Forward:
    """The network as a function, by the fastest way there is: `trainer.recurrence`, or with a GPU Keras's layers (cuDNN).

    operands: the type that the large products round their operands to, float32 or bfloat16.
    """
    if tf.config.list_physical_devices("GPU"):
        return forward_by_keras(architecture, operands)
    return partial(recurrence.forward, architecture.cell, operands=operands)


def forward_by_keras(architecture: Architecture, operands: tf.DType = tf.float32) -> Forward:
    """The network as a function that runs Keras's own layers on given weights and states instead of their variables.

    With bfloat16 operands their policy is mixed_bfloat16.
    """
    policy = "float32" if operands == tf.float32 else "mixed_bfloat16"
    layers = []
    for i in range(architecture.layers):
        layer = LAYERS[architecture.cell](architecture.units, return_sequences=True, return_state=True, dtype=policy)
        layer.build((None, None, architecture.units if i else architecture.embedding))
        layers.append(layer)

    def run(
        weights: Mapping[str, tf.Tensor], states: States, characters: tf.Tensor, output_masks: Sequence[tf.Tensor] | None = None
    ) -> tuple[tf.Tensor, States]:
        x, after = tf.gather(weights["embedding"], characters), []
        for i, (layer, state) in enumerate(zip(layers, states, strict=True)):
            given = [weights[f"rnn.{i}.{name}"] for name in ("kernel", "recurrent_kernel", "bias")]
            (x, *last), _ = layer.stateless_call(given, layer.non_trainable_variables, x, initial_state=list(state), training=True)
            x = tf.cast(x, tf.float32)
            after.append(tuple(tf.cast(value, tf.float32) for value in last))
            if output_masks is not None:
                x *= output_masks[i][:, None]
        return tf.tensordot(x, weights["dense.kernel"], 1) + weights["dense.bias"], after

    return run
