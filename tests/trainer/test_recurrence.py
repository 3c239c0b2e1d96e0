import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import network, recurrence
from trainer.artifact import Architecture

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def built(cell: str, layers: int = 1) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = network.build(Architecture(cell=cell, layers=layers, units=40, embedding=12, vocabulary=list("abcdefg")), batch_size=4)
    for variable in model.trainable_variables:  # biases too, which Keras starts at zero
        variable.assign(variable + np.random.default_rng(0).normal(scale=0.2, size=variable.shape))
    return model


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_logits_states_and_gradients_are_kerass(layers: int) -> None:
    model = built("gru", layers)
    ids = np.random.default_rng(0).integers(0, 7, (3, 4, 15)).astype(np.int32)

    def three_calls(forward: object) -> tuple[list[np.ndarray], list[np.ndarray], list[tf.Tensor]]:
        """The state carried over two calls, then a third with its gradient."""
        network.reset_state(model)
        logits = [forward(ids[0]), forward(ids[1])]  # type: ignore[operator]
        with tf.GradientTape() as tape:
            logits.append(forward(ids[2]))  # type: ignore[operator]
            loss = LOSS(ids[0], logits[-1])
        states = [state.numpy() for layer in network.recurrent_layers(model) for state in layer.states]
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, model.trainable_variables)]
        return logits, states, gradients

    expected = three_calls(lambda x: model(x, training=True))
    found = three_calls(lambda x: recurrence.logits(model, tf.constant(x)))
    for theirs, ours in zip(expected, found, strict=True):
        assert len(theirs) == len(ours) > 0
        for one, other in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(one).max())


def test_an_lstm_is_left_to_keras() -> None:
    assert recurrence.applies_to(built("gru")) == (not tf.config.list_physical_devices("GPU"))
    assert not recurrence.applies_to(built("lstm"))
