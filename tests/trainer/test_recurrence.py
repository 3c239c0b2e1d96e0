from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import load_weights
from tests.trainer.conftest import tensors
from trainer import network, recurrence, scan_library
from trainer.artifact import Architecture
from trainer.scan_library import MIN_SHARD_ROWS, ROW_SHARDS, count_row_shards


def architecture(cell: str, layers: int = 1, embedding: int = 12) -> Architecture:
    return Architecture(cell=cell, layers=layers, units=40, embedding=embedding, vocabulary=list("abcdefg"))


def variables(shape: Architecture) -> dict[str, tf.Variable]:
    """Biases too are other than zero, where Keras starts them."""
    keras.utils.set_random_seed(3)
    rng, model = np.random.default_rng(0), network.build(shape, batch_size=1)
    return {
        name: tf.Variable(tensor + rng.normal(scale=0.2, size=tensor.shape).astype(np.float32))
        for name, tensor in tensors(model).items()
    }


IDS = np.random.default_rng(0).integers(0, 7, (3, 4, 8)).astype(np.int32)
MANY_IDS = (
    np.random.default_rng(0).integers(0, 7, (3, ROW_SHARDS * MIN_SHARD_ROWS, 8)).astype(np.int32)
)  # for a batch that runs in parts


def three_calls(
    forward: network.Forward, shape: Architecture, outputs: list[np.ndarray] | None = None, text: np.ndarray = IDS
) -> tuple[list[np.ndarray], ...]:
    """(logits, states, gradients): the state carried over two calls, then a third with its gradient."""
    weights, states, logits = variables(shape), network.zero_states(shape, text.shape[1]), []
    for ids in text[:2]:
        found, states = forward(weights, states, tf.constant(ids), outputs)
        logits.append(found.numpy())
    first = [tf.Variable(value) for state in states for value in state]
    per_layer = len(first) // shape.layers
    with tf.GradientTape() as tape:
        states = [tuple(first[i * per_layer + j] for j in range(per_layer)) for i in range(shape.layers)]
        found, states = forward(weights, states, tf.constant(text[2]), outputs)
        # Of the states too: the gradient must come in there as well.
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(text[0], found))
        loss += sum(tf.reduce_mean(value**2) for state in states for value in state)
    gradients = [tf.convert_to_tensor(gradient).numpy() for gradient in tape.gradient(loss, [*weights.values(), *first])]
    return [*logits, found.numpy()], [value.numpy() for state in states for value in state], gradients


@pytest.fixture(params=["native", "loop"])
def scan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computes each recurrence in C, however few its rows, or none."""
    if request.param == "loop":
        monkeypatch.setattr(scan_library, "find_library", lambda: None)
    elif scan_library.find_library() is None:
        pytest.skip("no kernel here")
    monkeypatch.setattr(scan_library, "MIN_ROWS", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("scan")
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize(("layers", "dropped"), [(1, False), (3, True)])
def test_logits_states_and_gradients_are_those_of_kerass_layers(cell: str, layers: int, dropped: bool) -> None:
    shape = architecture(cell, layers)
    outputs = [np.random.default_rng(i).integers(0, 2, (4, 40)).astype(np.float32) for i in range(layers)] if dropped else None
    expected = three_calls(network.forward_by_keras(shape), shape, outputs)
    assert_same(expected, three_calls(partial(recurrence.forward, cell), shape, outputs))


@pytest.mark.slow
@pytest.mark.usefixtures("scan")
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_so_are_those_of_a_batch_that_runs_in_parts(cell: str) -> None:
    shape, rows = architecture(cell, layers=2), MANY_IDS.shape[1]
    assert count_row_shards(rows) > 1
    outputs = [np.random.default_rng(i).integers(0, 2, (rows, 40)).astype(np.float32) for i in range(2)]
    expected = three_calls(network.forward_by_keras(shape), shape, outputs, MANY_IDS)
    assert_same(expected, three_calls(partial(recurrence.forward, cell), shape, outputs, MANY_IDS))


@pytest.mark.slow
@pytest.mark.usefixtures("scan")
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_so_are_those_of_a_vocabulary_larger_than_its_embedding(cell: str) -> None:
    shape = architecture(cell, embedding=5)
    assert_same(three_calls(network.forward_by_keras(shape), shape), three_calls(partial(recurrence.forward, cell), shape))


def assert_same(expected: tuple[list[np.ndarray], ...], found: tuple[list[np.ndarray], ...]) -> None:
    """To 1e-5 of each tensor's largest element."""
    for theirs, ours in zip(expected, found, strict=True):
        assert len(theirs) == len(ours) > 0
        for one, other in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())


@pytest.mark.slow
@pytest.mark.usefixtures("scan")
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("steps", [1, 8])
def test_a_graph_of_unknown_length_gives_what_the_keras_model_gives(cell: str, steps: int) -> None:
    shape = architecture(cell, layers=2)
    model = network.build(shape, batch_size=4)
    weights = variables(shape)
    load_weights(model, {name: weight.numpy() for name, weight in weights.items()})
    characters = tf.TensorSpec((4, None), tf.int32)
    forward = tf.function(
        lambda ids: network.forward(shape)(weights, network.zero_states(shape, 4), ids)[0], [characters], autograph=False
    )
    ids = IDS[0][:, :steps]
    np.testing.assert_allclose(forward(ids), model(ids), atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("scan")
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_function_gives_what_the_keras_model_gives(cell: str) -> None:
    shape = architecture(cell, layers=2)
    model = network.build(shape, batch_size=4)
    load_weights(model, {name: weight.numpy() for name, weight in variables(shape).items()})
    states = network.zero_states(shape, 4)
    for ids in IDS:
        logits, states = network.forward(shape)(variables(shape), states, tf.constant(ids))
        np.testing.assert_allclose(logits, model(ids), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("text", [pytest.param(IDS, id="whole"), pytest.param(MANY_IDS, id="in parts")])
def test_bf16_operands_differ_by_their_rounding(cell: str, text: np.ndarray) -> None:
    shape = architecture(cell, layers=2)
    exact = three_calls(partial(recurrence.forward, cell), shape, text=text)
    rounded = three_calls(partial(recurrence.forward, cell, operands=tf.bfloat16), shape, text=text)
    for one, other in zip(exact, rounded, strict=True):
        for theirs, ours in zip(one, other, strict=True):
            assert ours.dtype == np.float32
            assert 0 < np.abs(ours - theirs).max() < 0.1 * np.abs(theirs).max()


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="with a GPU Keras's layers run, by cuDNN")
def test_without_a_gpu_the_network_runs_by_it() -> None:
    shape = architecture("gru")
    given = variables(shape), network.zero_states(shape, 4), tf.constant(IDS[0])
    np.testing.assert_array_equal(network.forward(shape)(*given)[0], recurrence.forward("gru", *given)[0])
