"""One training step: forward with dropout, gradient, clipping, AdamW, average. Knows nothing of epochs or files."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import keras
import tensorflow as tf

from trainer import dropout, network
from trainer.artifact import Architecture
from trainer.config import TrainingConfig
from trainer.recurrence import States
from trainer.resources import cpu_has_bf16
from trainer.workers import Workers

Weights = Mapping[str, tf.Variable]  # by published name
Step = Callable[[tf.Tensor, tf.Tensor, States, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, States]]


def optimizer_of(config: TrainingConfig, weights: Weights, batches: int) -> keras.optimizers.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), for a run of `batches`."""
    rate: Any = config.learning_rate
    if config.schedule == "cosine":
        cosine, warmup = keras.optimizers.schedules.CosineDecay, min(round(config.warmup * batches), batches - 1)
        rate = cosine(0.0, batches - warmup, warmup_target=rate, warmup_steps=warmup) if warmup else cosine(rate, batches)
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
    averages: Weights,
    optimizer: keras.optimizers.Optimizer,
    *,
    batches: int,
    workers: Workers,
) -> Step:
    """(batch's number in the run, flag, states, inputs, targets) -> (loss, flag, states after).

    inputs, targets: int32 [batch, steps]. The loss, in nats per character, and the flag, a float that a worker may raise,
    are means over the workers. Changes weights, averages and the optimizer's variables. batches: in the whole run.
    """
    forward = network.forward(architecture, tf.bfloat16 if resolve_precision(config.precision) == "bf16" else tf.float32)
    shapes, variables = architecture.tensor_shapes, list(weights.values())

    def differentiate(number: tf.Tensor, flag: tf.Tensor, states: States, inputs: tf.Tensor, targets: tf.Tensor) -> Any:
        masks = dropout.masks(config, shapes, number, workers.index)
        output_masks = dropout.output_masks(config, number, workers.index)
        if config.scheduled_sampling:
            dropped = _drop(weights, masks)
            share = config.scheduled_sampling * tf.cast(number, tf.float32) / batches
            inputs = mix_in_own_characters(
                partial(forward, dropped, states, output_masks=output_masks),
                inputs,
                share,
                dropout.seed(config, number, workers.index, dropout.OWN_CHARACTERS),
            )
        with tf.GradientTape() as tape:
            logits, states = forward(_drop(weights, masks), states, inputs, output_masks)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
        # Densify: Keras's Adam squares each duplicate row of a sparse gradient separately instead of their sum.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
        (loss, flag), gradients = workers.mean([loss, flag]), workers.mean(gradients)
        return loss, flag, states, gradients

    # It needs no AutoGraph, which would read the source of all that it calls, Keras's too: seconds before the first step.
    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(number: tf.Tensor, flag: tf.Tensor, states: States, inputs: tf.Tensor, targets: tf.Tensor) -> Any:
        loss, flag, states, gradients = workers.run(differentiate, number, flag, states, inputs, targets)
        optimizer.apply(gradients, variables)
        # A shorter horizon at first, so the random initial weights drop out quickly.
        decay = tf.minimum(config.averaging, (1 + tf.cast(number, tf.float32)) / (10 + tf.cast(number, tf.float32)))
        for name, average in averages.items():
            average.assign_add((1 - decay) * (weights[name] - average))
        return loss, flag, states

    return step  # type: ignore[no-any-return]


def mix_in_own_characters(forward: Callable[[tf.Tensor], Any], inputs: tf.Tensor, share: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """`inputs` with a `share` of them replaced by characters that the network draws after the text before them.

    Scheduled sampling (Bengio et al. 2015) in two passes instead of step by step (Mihaylova and Martins 2019, 'Scheduled
    Sampling for Transformers'): the draws come from one pass over the text as it is. A row's first input stays.
    """
    logits, _ = forward(inputs)
    before = tf.stop_gradient(logits[:, :-1])
    drawn = tf.random.stateless_categorical(tf.reshape(before, [-1, before.shape[-1]]), 1, seed, tf.int32)
    drawn = tf.concat([inputs[:, :1], tf.reshape(drawn, tf.shape(before)[:2])], 1)
    return tf.where(tf.random.stateless_uniform(tf.shape(inputs), seed + 1) < share, drawn, inputs)


def _drop(weights: Weights, masks: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: weight * masks[name] if name in masks else weight for name, weight in weights.items()}


def resolve_precision(precision: Literal["auto", "f32", "bf16"]) -> Literal["f32", "bf16"]:
    """`auto` is bf16 on a CPU that computes in it, else f32; f32 with a GPU."""
    if precision != "auto":
        return precision
    return "bf16" if not tf.config.list_physical_devices("GPU") and cpu_has_bf16() else "f32"
