"""The text, network and batches that every trainer is measured with, and the result of one turn."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trainer import corpus
from trainer.config import TrainingConfig
from trainer.corpus import Corpus

Cell = Literal["gru", "lstm"]

WARM_UP = 2  # batches trained before any is measured: graphs are built in them


@dataclass(frozen=True)
class Measured:
    """One turn of a system."""

    characters_per_second: float
    loss: float | None = None  # nats per character, mean over the turn's batches; None for what does not train
    gflops: dict[str, float] = field(default_factory=dict)  # by shapes, of what only multiplies


def reference(cell: Cell, **options: str) -> TrainingConfig:
    """The tutorial's training: batches of 64 x 100 characters, an embedding of 256, one layer of 1024 units, Adam."""
    return TrainingConfig.model_validate({"recipe": "tutorial", "cell": cell, **options})


def text() -> Corpus:
    """The reference's, encoded."""
    with TemporaryDirectory() as folder:
        return corpus.read([corpus.SHAKESPEARE], Path(folder))  # mapped, it outlives its name


def batches_in_memory(config: TrainingConfig, ids: NDArray[np.unsignedinteger]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(inputs, targets), each [batches, batch_size, seq_length]: each row goes on where the same row of the batch before ended."""
    count = (len(ids) - 1) // (config.batch_size * config.seq_length)

    def cut(first: int) -> NDArray[np.int32]:
        taken = ids[first : first + count * config.batch_size * config.seq_length]
        return taken.reshape(config.batch_size, count, config.seq_length).swapaxes(0, 1).astype(np.int32)

    return cut(0), cut(1)
