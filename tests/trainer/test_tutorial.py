"""The facts of the reference, TensorFlow's tutorial 'Text generation with an RNN', that the recipe `tutorial` reproduces."""

from math import log
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import load_weights
from tests.trainer.conftest import tensors
from trainer import batches, corpus, network, step
from trainer.batches import ShuffledBatches, split
from trainer.config import TrainingConfig
from trainer.corpus import Corpus
from trainer.workers import Workers


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    return TrainingConfig(recipe="tutorial")


@pytest.fixture(scope="module")
def text(config: TrainingConfig, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return corpus.read(config.corpus, tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def windows(config: TrainingConfig, text: Corpus) -> ShuffledBatches:
    assert config.examples == "windows"
    return ShuffledBatches(split(text.ids, config.held_out)[0], config.seq_length, config.batch_size, config.seed)


@pytest.fixture(scope="module")
def model(config: TrainingConfig, text: Corpus) -> keras.Model:
    keras.utils.set_random_seed(0)
    return network.build(config.architecture(text.vocabulary.characters), config.batch_size)


def test_the_corpus_has_its_characters(text: Corpus) -> None:
    whole = Path(corpus.SHAKESPEARE).read_bytes().decode()
    assert len(text.ids) == len(whole) == 1_115_394
    assert len(text.vocabulary) == 65
    assert text.vocabulary.characters == sorted(set(whole))


def test_first_citizen_has_its_ids(text: Corpus) -> None:
    first_citizen = [18, 47, 56, 57, 58, 1, 15, 47, 58, 47, 64, 43, 52]
    assert text.vocabulary.encode("First Citizen").tolist() == first_citizen
    assert text.ids[:13].tolist() == first_citizen


def test_the_text_is_cut_into_its_examples_and_steps(windows: ShuffledBatches) -> None:
    assert windows.windows == 11_043
    assert len(windows) == 172
    assert batches.SHUFFLE_BUFFER == 10_000


def test_batches_have_their_shapes(windows: ShuffledBatches) -> None:
    inputs, targets = next(iter(windows.epoch(1)))
    assert inputs.shape == targets.shape == (64, 100)
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])


def test_layers_have_their_parameters(model: keras.Model) -> None:
    assert [layer.count_params() for layer in model.layers] == [16_640, 3_938_304, 66_625]
    assert model.count_params() == 4_021_569


def test_the_gru_is_the_tutorials(model: keras.Model) -> None:
    gru = model.layers[1]
    assert isinstance(gru, keras.layers.GRU)
    assert gru.units == 1024
    assert gru.stateful
    assert gru.return_sequences
    assert gru.reset_after
    assert isinstance(gru.cell.recurrent_initializer, keras.initializers.GlorotUniform)


@pytest.mark.slow
def test_an_untrained_network_is_as_good_as_a_guess(config: TrainingConfig, model: keras.Model, windows: ShuffledBatches) -> None:
    inputs, targets = next(iter(windows.epoch(1)))
    architecture = config.architecture(list(map(chr, range(65))))
    weights = {name: variable.value for name, variable in network.variables(model).items()}
    logits, _ = network.forward(architecture)(weights, network.zero_states(architecture, 64), inputs)
    assert logits.shape == (64, 100, 65)
    loss = float(keras.losses.SparseCategoricalCrossentropy(from_logits=True)(targets, logits))
    assert loss == pytest.approx(log(65), abs=0.01)
    assert loss == pytest.approx(4.174, abs=0.01)


def test_training_options_are_the_tutorials(config: TrainingConfig) -> None:
    assert (config.epochs, config.batch_size, config.seq_length) == (10, 64, 100)
    assert (config.cell, config.layers, config.units, config.embedding) == ("gru", 1, 1024, 256)
    optimizer, plain = step.make_optimizer(config, {"a": tf.Variable(tf.zeros(1))}, batches=1720), keras.optimizers.Adam()
    assert optimizer.get_config() == plain.get_config() | {"name": optimizer.name}
    assert config.learning_rate == pytest.approx(float(plain.learning_rate))
    assert not any((config.weight_drop, config.output_dropout, config.embedding_dropout, config.averaging, config.held_out))


def test_an_lstm_may_take_the_grus_place_and_layers_may_be_added(text: Corpus) -> None:
    options = TrainingConfig(cell="lstm", layers=2, units=32, embedding=16)
    model = network.build(options.architecture(text.vocabulary.characters), batch_size=2)
    assert [type(layer) for layer in model.layers[1:-1]] == [keras.layers.LSTM, keras.layers.LSTM]
    assert model(np.zeros((2, 5), np.int32)).shape == (2, 5, 65)


@pytest.mark.slow
def test_the_network_compiles_and_fits_as_a_plain_keras_model(text: Corpus) -> None:
    """The tutorial's first half, on the trainer's own batches: model.compile, model.fit."""
    keras.utils.set_random_seed(0)
    options = TrainingConfig(units=32, embedding=16, batch_size=8, seq_length=20)
    model = network.build(options.architecture(text.vocabulary.characters), options.batch_size)
    batches = ShuffledBatches(text.ids[:8_000], seq_length=20, batch_size=8, seed=0).epoch(1)
    model.compile(optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    stacked = tuple(np.stack(part) for part in zip(*batches, strict=True))
    history = model.fit(tf.data.Dataset.from_tensor_slices(stacked), epochs=2, shuffle=False, verbose=0).history
    assert history["loss"][1] < history["loss"][0] < log(65)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_fit_and_the_trainers_own_loop_take_the_same_steps(text: Corpus, cell: Literal["gru", "lstm"]) -> None:
    """The tutorial's two halves differ in form only: from the same weights, over the same batches, to the same weights.

    With SGD, whose steps show a gradient as it is: Keras's Adam treats an embedding's sparse gradient otherwise than a dense one.
    """
    config = TrainingConfig(recipe="tutorial", units=16, embedding=8, cell=cell, batch_size=4, precision="f32")
    architecture = config.architecture(text.vocabulary.characters)
    keras.utils.set_random_seed(0)
    by_fit, by_loop = network.build(architecture, 4), network.build(architecture, 4)
    load_weights(by_loop, tensors(by_fit))
    before = tensors(by_fit)
    batches = list(ShuffledBatches(text.ids[:1000], seq_length=10, batch_size=4, seed=0).epoch(1))

    by_fit.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    stacked = tuple(np.stack(part) for part in zip(*batches, strict=True))
    by_fit.fit(tf.data.Dataset.from_tensor_slices(stacked), shuffle=False, verbose=0)
    weights = {name: variable.value for name, variable in network.variables(by_loop).items()}
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build(list(weights.values()))
    take = step.training_step(config, architecture, weights, {}, optimizer, batches=len(batches), workers=Workers())
    states = network.zero_states(architecture, 4)
    for number, (inputs, targets) in enumerate(batches):
        _, _, states = take(tf.constant(number), tf.constant(0.0), states, inputs, targets)

    for name, tensor in tensors(by_fit).items():
        moved = np.abs(tensor - before[name]).max()
        assert moved > 0
        np.testing.assert_allclose(tensors(by_loop)[name], tensor, atol=1e-4 * moved, rtol=0, err_msg=name)
