"""One step of training: what dropout, averaging, clipping and scheduled sampling do to it."""

from functools import cache
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import dropout, network, step
from trainer.config import TrainingConfig
from trainer.workers import Workers

pytestmark = pytest.mark.slow

PLAIN: dict[str, Any] = {
    "recipe": "tutorial",
    "units": 32,
    "embedding": 8,
    "layers": 2,
    "batch_size": 4,
    "seq_length": 30,
    "precision": "f32",
}
VOCABULARY = list("abcdefgh")
TEXT = (np.arange(4 * 31).reshape(4, 31) ** 2 % 7).astype(np.int32)


Outcome = tuple[list[float], dict[str, np.ndarray], dict[str, np.ndarray]]


def run(steps: int, **options: Any) -> Outcome:
    """(losses, weights, averages) of some steps over one batch, the state left at zero."""
    config = TrainingConfig(**PLAIN | options)
    keras.utils.set_random_seed(1)
    architecture = config.architecture(VOCABULARY)
    weights = network.initial_weights(architecture)
    averages = {name: tf.Variable(weight) for name, weight in weights.items()}
    optimizer = step.make_optimizer(config, weights, batches=steps)
    take = step.training_step(config, architecture, weights, averages, optimizer, batches=steps, workers=Workers())
    states, found = network.zero_states(architecture, 4), []
    for number in range(steps):
        loss, _, _ = take(tf.constant(number), tf.constant(0.0), states, tf.constant(TEXT[:, :-1]), tf.constant(TEXT[:, 1:]))
        found.append(float(loss))
    return found, {n: w.numpy() for n, w in weights.items()}, {n: w.numpy() for n, w in averages.items()}


losses = cache(run)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_bf16_learns_as_f32_does(cell: str) -> None:
    exact, *_ = losses(60, cell=cell, learning_rate=0.01)
    rounded, *_ = losses(60, cell=cell, learning_rate=0.01, precision="bf16")
    assert exact[-1] < 0.6 * exact[0]
    assert rounded != exact
    np.testing.assert_allclose(rounded, exact, atol=0.05)


def test_weights_other_than_biases_decay() -> None:
    _, before, _ = losses(0)
    _, after, _ = losses(1, learning_rate=1e-12, weight_decay=1e11)
    for name, tensor in before.items():
        np.testing.assert_allclose(after[name], tensor if name.endswith("bias") else 0.9 * tensor, atol=1e-6, err_msg=name)


def test_a_gradient_is_clipped_to_its_length_over_all_weights() -> None:
    """Adam forgets lengths, so its first moment is looked at: a tenth of the gradient after one step."""
    moments = []
    for clip_norm in (0.0, 1e-3):
        config = TrainingConfig(**PLAIN | {"clip_norm": clip_norm})
        weights = {"a": tf.Variable(tf.zeros(3)), "b.bias": tf.Variable(tf.zeros(2))}
        optimizer = step.make_optimizer(config, weights, batches=1)
        optimizer.apply([tf.constant([3.0, 0.0, 0.0]), tf.constant([0.0, 4.0])], list(weights.values()))
        moments.append(np.concatenate([v.numpy() for v in optimizer.variables if "momentum" in v.path]) * 10)
    np.testing.assert_allclose(moments[0], [3, 0, 0, 0, 4], rtol=1e-5)
    np.testing.assert_allclose(moments[1], [3e-3 / 5, 0, 0, 0, 4e-3 / 5], rtol=1e-5)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    config = TrainingConfig(**PLAIN | {"schedule": "cosine", "warmup": 0.1, "learning_rate": 0.5})
    rate = step.make_optimizer(config, {"a": tf.Variable(tf.zeros(1))}, batches=100)._learning_rate
    assert [float(rate(at)) for at in (0, 5, 10, 55, 100)] == pytest.approx([0, 0.25, 0.5, 0.25, 0], abs=1e-6)
    constant = config.model_copy(update={"schedule": "constant"})
    rate = step.make_optimizer(constant, {"a": tf.Variable(tf.zeros(1))}, batches=100)._learning_rate
    assert [float(rate(at)) for at in (0, 5, 10, 55, 100)] == pytest.approx([0, 0.25, 0.5, 0.5, 0.5], abs=1e-6)
    for batches in (1, 2, 10):  # however short a run
        step.make_optimizer(config.model_copy(update={"warmup": 0.99}), {"a": tf.Variable(tf.zeros(1))}, batches=batches)


@pytest.mark.parametrize(("averaging", "decay"), [(0.05, 0.05), (0.9, 0.1)])  # at the first step at most a tenth
def test_averages_follow_the_weights(averaging: float, decay: float) -> None:
    _, weights, averages = losses(1, averaging=averaging, learning_rate=0.1)
    _, first, _ = losses(0)
    for name in weights:
        expected = decay * first[name] + (1 - decay) * weights[name]
        np.testing.assert_allclose(averages[name], expected, atol=1e-5, err_msg=name)
        assert np.abs(weights[name] - first[name]).max() > 0.01


def test_dropout_is_drawn_from_the_seed_and_the_batch_alone() -> None:
    rates = {"weight_drop": 0.4, "output_dropout": 0.3, "embedding_dropout": 0.1}
    first, again, other = run(5, **rates), run(5, **rates), run(5, **rates, seed=1)
    assert first[0] == again[0] != other[0]
    for name in first[1]:
        np.testing.assert_array_equal(first[1][name], again[1][name])


@pytest.mark.parametrize("option", ["weight_drop", "output_dropout", "embedding_dropout"])
def test_each_rate_of_dropout_acts(option: str) -> None:
    rates: dict[str, Any] = {option: 0.4}
    assert losses(2, **rates)[0][0] != losses(2)[0][0]


def test_the_second_moment_decays_as_the_option_says() -> None:
    """A gradient of 1 leaves 1 - beta_2 after one step."""
    weights = {"a": tf.Variable(tf.zeros(1))}
    optimizer = step.make_optimizer(TrainingConfig(**PLAIN | {"beta_2": 0.9}), weights, batches=1)
    optimizer.apply([tf.constant([1.0])], list(weights.values()))
    (velocity,) = [v.numpy() for v in optimizer.variables if "velocity" in v.path]
    assert velocity == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("flags", "gpus", "resolved"),
    [("avx2 avx512_bf16", [], "bf16"), ("amx_bf16", [], "bf16"), ("avx2", [], "f32"), ("avx512_bf16", ["a GPU"], "f32")],
)
def test_auto_is_bf16_on_a_cpu_with_such_instructions(
    monkeypatch: pytest.MonkeyPatch, flags: str, gpus: list[str], resolved: str
) -> None:
    monkeypatch.setattr("trainer.resources.cpu_flags", lambda: flags)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: gpus)
    assert step.resolve_precision("auto") == resolved
    assert step.resolve_precision("bf16") == "bf16"


def test_masks_leave_out_their_share_and_keep_the_mean() -> None:
    config = TrainingConfig(units=100, embedding=50, layers=2, weight_drop=0.4, output_dropout=0.3, embedding_dropout=0.1)
    shapes = config.architecture(VOCABULARY).tensor_shapes
    drawn = {batch: dropout.masks(config, shapes, tf.constant(batch)) for batch in (0, 1)}
    assert set(drawn[0]) == {"embedding", "rnn.0.recurrent_kernel", "rnn.1.recurrent_kernel"}
    for name, mask in drawn[0].items():
        rate = 0.1 if name == "embedding" else 0.4
        assert mask.shape == shapes[name]
        assert set(np.unique(mask).tolist()) == {0.0, float(np.float32(1) / np.float32(1 - rate))}
        assert np.mean(mask.numpy() == 0) == pytest.approx(rate, abs=0.06)
        assert not np.array_equal(mask, drawn[1][name])
    assert not np.array_equal(drawn[0]["rnn.0.recurrent_kernel"], drawn[0]["rnn.1.recurrent_kernel"])
    outputs, others = dropout.output_masks(config, tf.constant(0)), dropout.output_masks(config, tf.constant(0), rank=1)
    assert outputs is not None
    assert others is not None
    assert [mask.shape for mask in outputs] == [(64, 100)] * 2
    assert np.mean(outputs[0].numpy() == 0) == pytest.approx(0.3, abs=0.03)
    assert not np.array_equal(outputs[0], others[0])


def test_scheduled_sampling_puts_the_models_own_characters_in_place_of_a_share_of_the_texts() -> None:
    inputs = tf.constant(np.random.default_rng(0).integers(0, 3, (8, 500)), tf.int32)

    def forward(characters: tf.Tensor) -> Any:  # after i comes 10 + i, surely
        return 100 * tf.one_hot(10 + characters, 20), []

    for share in (0.0, 0.25, 1.0):
        mixed = step.mix_in_own_characters(forward, inputs, tf.constant(share), tf.constant([1, 2], tf.int64)).numpy()
        own = mixed[:, 1:] >= 10
        assert own.mean() == pytest.approx(share, abs=0.03)
        np.testing.assert_array_equal(mixed[:, 0], inputs[:, 0])
        np.testing.assert_array_equal(mixed[:, 1:], np.where(own, 10 + inputs[:, :-1], inputs[:, 1:]))
    assert losses(5, scheduled_sampling=0.5)[0][0] == losses(5)[0][0], "the share rises from nothing"
    assert losses(5, scheduled_sampling=0.5)[0] != losses(5)[0]
