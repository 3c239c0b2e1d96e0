"""The state of a run: everything that changes while it trains. All of it is saved, so a resumed run continues bit for bit."""

from dataclasses import dataclass, field
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer import network
from trainer.artifact import Architecture, Version
from trainer.checkpoints import SavedState
from trainer.config import TrainingConfig
from trainer.corpus import Corpus
from trainer.errors import Diverged
from trainer.history import EpochRow
from trainer.network import Weights
from trainer.recurrence import States
from trainer.step import make_optimizer
from trainer.workers import Workers

CHARACTER_AXIS = {"embedding": 0, "dense.kernel": 1, "dense.bias": 0}  # the tensors with an entry per character


@dataclass
class TrainingState:
    weights: Weights
    ema_weights: Weights  # their exponential moving averages; empty without averaging
    optimizer: keras.optimizers.Optimizer
    recurrent: States  # of this worker's rows, carried from batch to batch
    epoch: int = 1
    batch: int = 0  # batches of this epoch that are done
    losses: list[float] = field(default_factory=list)  # of this epoch
    seconds: float = 0.0  # of this epoch, saves included
    history: list[EpochRow] = field(default_factory=list)  # of the epochs before
    init_from: dict[str, Any] | None = None  # the published version that the first weights come from
    teachers: list[dict[str, Any]] = field(default_factory=list)  # the published versions that write

    @classmethod
    def new(cls, config: TrainingConfig, architecture: Architecture, batches: int) -> Self:
        """Draws the first weights by Keras's seed. batches: in the whole run."""
        weights = network.initial_weights(architecture)
        ema_weights = {name: tf.Variable(weight) for name, weight in weights.items()} if config.averaging else {}
        optimizer = make_optimizer(config, weights, batches)
        return cls(weights, ema_weights, optimizer, network.zero_states(architecture, config.batch_size))

    @property
    def scored_weights(self) -> Weights:
        """The weights that are scored, sampled and published: the moving averages if there are any."""
        return self.ema_weights or self.weights

    def start_from(self, init: Version, vocabulary: list[str]) -> None:
        """Takes a published version's weights. `vocabulary` must have all its characters; new ones keep their initial weights."""
        ids = {character: i for i, character in enumerate(vocabulary)}
        known = np.array([ids[character] for character in init.config.vocabulary])
        for name, tensor in init.tensors.items():
            value = tensor
            if name in CHARACTER_AXIS:
                value = np.array(self.weights[name].numpy())
                np.moveaxis(value, CHARACTER_AXIS[name], 0)[known] = np.moveaxis(tensor, CHARACTER_AXIS[name], 0)
            for variables in (self.weights, self.ema_weights):
                if name in variables:
                    variables[name].assign(value)
        self.init_from = init.reference

    def next_epoch(self) -> None:
        self.epoch, self.batch, self.losses, self.seconds = self.epoch + 1, 0, [], 0.0
        self.recurrent = [tuple(tf.zeros_like(part) for part in state) for state in self.recurrent]

    def start_again(self, rows: NDArray[np.bool_]) -> None:
        """Sets the recurrent state of these rows to zero."""
        self.recurrent = [tuple(tf.where(rows[:, None], 0.0, part) for part in state) for state in self.recurrent]

    def saved(self, config: TrainingConfig, text: Corpus, workers: Workers) -> SavedState:
        """What `restore` needs. All workers must call this. Raises Diverged, so that a good save is not overwritten."""
        # A loss is computed from the weights before its step. The effect of the last step shows only here.
        if not all(np.isfinite(weight.numpy()).all() for weight in self.weights.values()):
            raise Diverged(f"a weight is not a number after batch {self.batch} of epoch {self.epoch}")
        tensors = {f"weights/{name}": weight.numpy() for name, weight in self.weights.items()}
        tensors |= {f"averages/{name}": average.numpy() for name, average in self.ema_weights.items()}
        tensors |= {f"optimizer/{i}": variable.numpy() for i, variable in enumerate(self.optimizer.variables)}
        for i, state in enumerate(self.recurrent):
            tensors |= {f"states/{i}/{j}": workers.gather_rows(part).numpy() for j, part in enumerate(state)}
        progress = {
            "config": config.model_dump(mode="json"),
            "corpus": text.sha256,
            "vocabulary": text.vocabulary.characters,
            "init_from": self.init_from,
            "teachers": self.teachers,
            "epoch": self.epoch,
            "batch": self.batch,
            "workers": workers.world_size,
            "seconds": self.seconds,
            "history": self.history,
        }
        return SavedState(tensors | {"losses": np.array(self.losses, np.float64)}, progress)

    def restore(self, saved: SavedState, rank: int) -> None:
        tensors, progress = saved.tensors, saved.progress
        for name, weight in self.weights.items():
            weight.assign(tensors[f"weights/{name}"])
        for name, average in self.ema_weights.items():
            average.assign(tensors[f"averages/{name}"])
        # The learning rate is an option that may change when the run is resumed. With a schedule it is no variable.
        variables = [one for one in self.optimizer.variables if one.path.split("/")[-1] != "learning_rate"]
        values = [tensors[f"optimizer/{i}"] for i in range(len(tensors)) if f"optimizer/{i}" in tensors]
        if len(values) > len(variables):
            del values[1]  # the saved learning rate
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        rows = len(self.recurrent[0][0])
        self.recurrent = [
            tuple(tf.constant(tensors[f"states/{i}/{j}"][rank * rows : (rank + 1) * rows]) for j in range(len(state)))
            for i, state in enumerate(self.recurrent)
        ]
        self.init_from = progress.get("init_from")  # earlier releases did not save it
        self.epoch, self.batch = progress["epoch"], progress["batch"]
        self.losses, self.seconds, self.history = tensors["losses"].tolist(), progress["seconds"], progress["history"]
