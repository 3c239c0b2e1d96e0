"""The network: Embedding, recurrent layers, Dense. As a plain Keras model, and as functions of its weights.

It also defines the published names of the weights. Does not know training or files.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from trainer import recurrence
from trainer.artifact import Architecture
from trainer.cells import CELLS
from trainer.recurrence import States

LAYERS = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}

Weights = Mapping[str, Any]  # arrays, tensors or variables, by published name

Forward = Callable[..., tuple[tf.Tensor, States]]
"""(weights, states, characters int32 [batch, steps], output_masks=None) -> (logits [batch, steps, vocabulary], states after).

All results are float32. output_masks: for each layer a mask [batch, units] that its outputs are multiplied by at every step."""


def build(architecture: Architecture, batch_size: int) -> keras.Model:
    """A stateful Keras model: int32 ids [batch_size, steps] -> logits [batch_size, steps, vocabulary].

    Its recurrent layers keep their states between calls. By default it is the network of TensorFlow's tutorial 'Text
    generation with an RNN': one GRU of 1024 units and an embedding of 256.
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


def variables(network: keras.Model) -> dict[str, Any]:
    """The Keras variables of the network, by published name (see `trainer.artifact`)."""
    embedding, *recurrent, dense = network.layers
    named = {"embedding": embedding.embeddings}
    for i, layer in enumerate(recurrent):
        named[f"rnn.{i}.kernel"] = layer.cell.kernel
        named[f"rnn.{i}.recurrent_kernel"] = layer.cell.recurrent_kernel
        named[f"rnn.{i}.bias"] = layer.cell.bias
    return named | {"dense.kernel": dense.kernel, "dense.bias": dense.bias}


def initial_weights(architecture: Architecture) -> dict[str, tf.Variable]:
    """The weights of a new network, drawn by Keras's seed."""
    return {name: variable.value for name, variable in variables(build(architecture, 1)).items()}


def zero_states(architecture: Architecture, batch_size: int) -> States:
    parts = CELLS[architecture.cell].STATE
    return [tuple(tf.zeros((batch_size, architecture.units)) for _ in range(parts)) for _ in range(architecture.layers)]


def forward(architecture: Architecture, operands: tf.DType = tf.float32) -> Forward:
    """The fastest forward pass: `trainer.recurrence` on a CPU, Keras's layers (cuDNN) on a GPU.

    operands: the type that the large products round their operands to, float32 or bfloat16.
    """
    if tf.config.list_physical_devices("GPU"):
        return forward_by_keras(architecture, operands)
    return partial(recurrence.forward, architecture.cell, operands=operands)


def forward_by_keras(architecture: Architecture, operands: tf.DType = tf.float32) -> Forward:
    """A forward pass by Keras's layers, on given weights and states. bfloat16 operands are the policy mixed_bfloat16."""
    policy = "float32" if operands == tf.float32 else "mixed_bfloat16"
    layers = []
    for i in range(architecture.layers):
        layer = LAYERS[architecture.cell](architecture.units, return_sequences=True, return_state=True, dtype=policy)
        layer.build((None, None, architecture.units if i else architecture.embedding))
        layers.append(layer)

    def run(
        weights: Weights, states: States, characters: tf.Tensor, output_masks: Sequence[tf.Tensor] | None = None
    ) -> tuple[tf.Tensor, States]:
        x, after = tf.gather(weights["embedding"], characters), []
        for i, (layer, state) in enumerate(zip(layers, states, strict=True)):
            (x, *last), _ = layer.stateless_call(
                _layer_weights(weights, i), layer.non_trainable_variables, x, initial_state=list(state), training=True
            )
            x = tf.cast(x, tf.float32)
            after.append(tuple(tf.cast(value, tf.float32) for value in last))
            if output_masks is not None:
                x *= output_masks[i][:, None]
        return tf.tensordot(x, weights["dense.kernel"], 1) + weights["dense.bias"], after

    return run


def _layer_weights(weights: Weights, layer: int) -> list[Any]:
    """A recurrent layer's weights in Keras's order."""
    return [weights[f"rnn.{layer}.{name}"] for name in ("kernel", "recurrent_kernel", "bias")]
