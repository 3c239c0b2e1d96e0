"""Dropout: what a batch leaves out of the network, drawn anew for each from (seed, batch).

- weight-drop on the recurrent kernels: one mask for all steps of a batch, so the recurrence itself is regularised
  (Merity et al. 2017, 'Regularizing and Optimizing LSTM Language Models');
- on the layers' outputs, one mask for all steps of a row (variational dropout: Gal and Ghahramani 2016, 'A Theoretically
  Grounded Application of Dropout in Recurrent Neural Networks');
- on the embedding, one mask of its elements for all rows of a batch: its product with the input kernel stays a table.

What is kept is scaled by 1 / (1 - rate), so that nothing need be scaled when the network is used. Draws depend on the
seed and the batch's number alone: a run that is resumed leaves out the same.
"""

from collections.abc import Mapping

import tensorflow as tf

from trainer.config import TrainingConfig


def masks(config: TrainingConfig, shapes: Mapping[str, tuple[int, ...]], batch: tf.Tensor, worker: int = 0) -> dict[str, tf.Tensor]:
    """What weights are to be multiplied by, by published name; those that nothing is dropped of are left out.

    shapes: of the weights; batch: int32 [], the batch's number in the run; worker: which of several draws.
    """
    rates = {"embedding": config.embedding_dropout}
    rates |= {f"rnn.{i}.recurrent_kernel": config.weight_drop for i in range(config.layers)}
    return {name: _mask(shapes[name], rate, config, batch, worker, i) for i, (name, rate) in enumerate(rates.items()) if rate}


def output_masks(config: TrainingConfig, batch: tf.Tensor, worker: int = 0) -> list[tf.Tensor] | None:
    """For each layer what its outputs are to be multiplied by, [batch_size, units]; None without dropout."""
    if not config.output_dropout:
        return None
    shape = (config.batch_size, config.units)
    return [_mask(shape, config.output_dropout, config, batch, worker, 1 + config.layers + i) for i in range(config.layers)]


# Which draw: scheduled sampling's, above the masks', which are numbered from 0 to 2 * layers, for layers <= artifact.MAX_LAYERS.
OWN_CHARACTERS = 4094


def seed(config: TrainingConfig, batch: tf.Tensor, worker: int, which: int) -> tf.Tensor:
    """The seed of one of a batch's draws, int64 [2]; which: below 4095, so that a draw that needs two seeds may take the next."""
    return tf.stack([tf.constant(config.seed + (worker << 32), tf.int64), tf.cast(batch, tf.int64) * 4096 + which])


def _mask(shape: tuple[int, ...], rate: float, config: TrainingConfig, batch: tf.Tensor, worker: int, which: int) -> tf.Tensor:
    kept = tf.random.stateless_uniform(shape, seed(config, batch, worker, which)) >= rate
    return tf.cast(kept, tf.float32) / (1 - rate)
