"""Dropout masks, drawn anew for each batch.

- weight-drop on the recurrent kernels: one mask for all steps of a batch, which regularises the recurrence itself (Merity et al.
  2017, 'Regularizing and Optimizing LSTM Language Models');
- on the layers' outputs: one mask for all steps of a row, which is variational dropout (Gal and Ghahramani 2016, 'A Theoretically
  Grounded Application of Dropout in Recurrent Neural Networks');
- on the embedding: one mask for all rows of a batch, so its product with the input kernel stays a table.

Kept values are scaled by 1 / (1 - rate). A mask depends only on the seed, the batch's number and the worker, so a resumed run
draws the same masks.
"""

from collections.abc import Mapping

import tensorflow as tf

from trainer.config import TrainingConfig


def masks(config: TrainingConfig, shapes: Mapping[str, tuple[int, ...]], batch: tf.Tensor, rank: int = 0) -> dict[str, tf.Tensor]:
    """The masks of the weights that have dropout, by published name.

    shapes: of the weights. batch: int32 [], the batch's number in the run. rank: the worker's.
    """
    rates = {"embedding": config.embedding_dropout}
    rates |= {f"rnn.{i}.recurrent_kernel": config.weight_drop for i in range(config.layers)}
    return {name: _mask(shapes[name], rate, config, batch, rank, i) for i, (name, rate) in enumerate(rates.items()) if rate}


def output_masks(config: TrainingConfig, batch: tf.Tensor, rank: int = 0) -> list[tf.Tensor] | None:
    """For each layer, the mask [batch_size, units] of its outputs. None without dropout."""
    if not config.output_dropout:
        return None
    shape = (config.batch_size, config.units)
    return [_mask(shape, config.output_dropout, config, batch, rank, 1 + config.layers + i) for i in range(config.layers)]


# The draw of scheduled sampling. The masks are draws 0 to 2 * layers, and layers <= artifact.MAX_LAYERS, so they are below it.
OWN_CHARACTERS = 4094


def seed(config: TrainingConfig, batch: tf.Tensor, rank: int, draw: int) -> tf.Tensor:
    """The seed of one of a batch's draws, int64 [2]. draw: less than 4095, because a draw may also use the next seed."""
    return tf.stack([tf.constant(config.seed + (rank << 32), tf.int64), tf.cast(batch, tf.int64) * 4096 + draw])


def _mask(shape: tuple[int, ...], rate: float, config: TrainingConfig, batch: tf.Tensor, rank: int, draw: int) -> tf.Tensor:
    kept = tf.random.stateless_uniform(shape, seed(config, batch, rank, draw)) >= rate
    return tf.cast(kept, tf.float32) / (1 - rate)
