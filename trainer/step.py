"""One training step: forward pass with dropout, gradient, clipping, AdamW, moving average. Does not know epochs or files."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import keras
import tensorflow as tf

from trainer import dropout, network
from trainer.artifact import Architecture
from trainer.config import TrainingConfig
from trainer.network import Weights
from trainer.recurrence import States
from trainer.resources import cpu_has_bf16
from trainer.workers import Workers

Step = Callable[[tf.Tensor, tf.Tensor, States, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, States]]


def make_optimizer(config: TrainingConfig, weights: Weights, batches: int) -> keras.optimizers.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019). batches: in the whole run."""
    rate: Any = config.learning_rate
    cosine, warmup = keras.optimizers.schedules.CosineDecay, min(round(config.warmup * batches), batches - 1)
    lowest = 1.0 if config.schedule == "constant" else 0.0  # the fraction of the rate that remains in the end
    if warmup:
        rate = cosine(0.0, batches - warmup, alpha=lowest, warmup_target=rate, warmup_steps=warmup)
    elif config.schedule == "cosine":
        rate = cosine(rate, batches)
    optimizer = keras.optimizers.Adam(
        rate, beta_2=config.beta_2, weight_decay=config.weight_decay or None, global_clipnorm=config.clip_norm or None
    )
    optimizer.exclude_from_weight_decay([weight for name, weight in weights.items() if name.endswith("bias")])
    optimizer.build(list(weights.values()))
    return optimizer


def training_step(
    config: TrainingConfig,
    architecture: Architecture,
    weights: Weights,
    ema_weights: Weights,
    optimizer: keras.optimizers.Optimizer,
    *,
    batches: int,
    workers: Workers,
) -> Step:
    """Returns step(number, flag, states, inputs, targets) -> (loss, flag, states after).

    It updates the weights, their moving averages and the optimizer's variables.
    number: of the batch in the run, of `batches` in total. flag: a float that a worker sets to 1 to stop all workers.
    inputs: int32 [batch, steps]. targets: int32 [batch, steps], or probabilities [batch, steps, vocabulary]. The loss, in nats
    per character, and the flag are means over the workers.
    """
    forward = network.forward(architecture, tf.bfloat16 if resolve_precision(config.precision) == "bf16" else tf.float32)
    shapes, variables = architecture.tensor_shapes, list(weights.values())

    def differentiate(number: tf.Tensor, flag: tf.Tensor, states: States, inputs: tf.Tensor, targets: tf.Tensor) -> Any:
        masks = dropout.masks(config, shapes, number, workers.rank)
        output_masks = dropout.output_masks(config, number, workers.rank)
        if config.scheduled_sampling:
            predict = partial(forward, _drop(weights, masks), states, output_masks=output_masks)
            fraction = config.scheduled_sampling * tf.cast(number, tf.float32) / batches
            seed = dropout.seed(config, number, workers.rank, dropout.OWN_CHARACTERS)
            inputs = mix_in_own_characters(predict, inputs, fraction, seed)
        entropy = (
            tf.nn.sparse_softmax_cross_entropy_with_logits if targets.shape.rank == 2 else tf.nn.softmax_cross_entropy_with_logits
        )
        with tf.GradientTape() as tape:
            logits, states = forward(_drop(weights, masks), states, inputs, output_masks)
            loss = tf.reduce_mean(entropy(targets, logits))
        # Made dense: for a sparse gradient, Keras's Adam squares each duplicate row separately instead of their sum.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
        (loss, flag), gradients = workers.mean([loss, flag]), workers.mean(gradients)
        return loss, flag, states, gradients

    # AutoGraph is not needed. It would read the source of everything that is called, Keras included, which takes seconds.
    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(number: tf.Tensor, flag: tf.Tensor, states: States, inputs: tf.Tensor, targets: tf.Tensor) -> Any:
        loss, flag, states, gradients = workers.run(differentiate, number, flag, states, inputs, targets)
        optimizer.apply(gradients, variables)
        _update_ema(ema_weights, weights, config.averaging, tf.cast(number, tf.float32))
        return loss, flag, states

    return step  # type: ignore[no-any-return]


def _update_ema(ema_weights: Weights, weights: Weights, ema_decay: float, number: tf.Tensor) -> None:
    # The decay is smaller at first, so that the random initial weights drop out quickly.
    decay = tf.minimum(ema_decay, (1 + number) / (10 + number))
    for name, average in ema_weights.items():
        average.assign_add((1 - decay) * (weights[name] - average))


def mix_in_own_characters(
    forward: Callable[[tf.Tensor], Any], inputs: tf.Tensor, fraction: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Replaces a fraction of the inputs by characters that the network draws, given the text before them.

    This is scheduled sampling (Bengio et al. 2015) in two passes instead of step by step (Mihaylova and Martins 2019, 'Scheduled
    Sampling for Transformers'): all draws come from one pass over the original text. A row's first input is never replaced.
    """
    logits, _ = forward(inputs)
    before = tf.stop_gradient(logits[:, :-1])
    drawn = tf.random.stateless_categorical(tf.reshape(before, [-1, before.shape[-1]]), 1, seed, tf.int32)
    drawn = tf.concat([inputs[:, :1], tf.reshape(drawn, tf.shape(before)[:2])], 1)
    return tf.where(tf.random.stateless_uniform(tf.shape(inputs), seed + 1) < fraction, drawn, inputs)


def _drop(weights: Weights, masks: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: weight * masks[name] if name in masks else weight for name, weight in weights.items()}


def resolve_precision(precision: Literal["auto", "f32", "bf16"]) -> Literal["f32", "bf16"]:
    """Resolves `auto`: bf16 on a CPU with bfloat16 instructions, f32 on other CPUs and with a GPU."""
    if precision != "auto":
        return precision
    return "bf16" if not tf.config.list_physical_devices("GPU") and cpu_has_bf16() else "f32"
