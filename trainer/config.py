"""What a training run is asked to do: TrainingConfig, from flags, TRAINER_* variables and defaults."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from trainer.artifact import GATES, MAX_LAYERS, MAX_UNITS, Architecture, ModelName
from trainer.corpus import SHAKESPEARE


class TrainingConfig(BaseSettings):
    """One training run. The defaults are the tutorial's."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_", frozen=True, extra="forbid")

    recipe: Literal["tutorial"] = Field(
        "tutorial", description="how to train: tutorial (TensorFlow's 'Text generation with an RNN')"
    )
    corpus: list[Path] = Field(
        default_factory=lambda: [SHAKESPEARE],
        min_length=1,
        description="UTF-8 text files, taken as one; the reference's if none is given",
    )
    name: ModelName = Field("shakespeare", description="the model's name: a version of it is published")
    models_dir: Path = Field(Path("models"), description="where versions are published")
    cell: Literal["gru", "lstm"] = Field("gru", description="recurrent cell: gru or lstm")
    layers: int = Field(1, ge=1, le=MAX_LAYERS, description="recurrent layers")
    units: int = Field(1024, ge=1, le=MAX_UNITS, description="units in each recurrent layer")
    embedding: int = Field(256, ge=1, le=MAX_UNITS, description="size of a character's embedding")
    seq_length: int = Field(100, ge=1, description="characters in a training example")
    batch_size: int = Field(64, ge=1, description="examples in a batch")
    epochs: int = Field(10, ge=1, description="passes over the text")
    learning_rate: float = Field(0.001, gt=0, allow_inf_nan=False, description="Adam's learning rate")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the weights and the shuffling: same seed, same model")

    @property
    def work_dir(self) -> Path:
        """Where this model's checkpoints and encoded text lie: beside its versions, under a name no reader looks at."""
        return self.models_dir / self.name / ".training"

    def architecture(self, vocabulary: list[str]) -> Architecture:
        return Architecture(cell=self.cell, layers=self.layers, units=self.units, embedding=self.embedding, vocabulary=vocabulary)

    def memory(self, vocabulary: list[str]) -> int:
        """Bytes a training step needs at least.

        Each weight with its gradient and Adam's two moments, and what a step keeps for the way back: for each recurrent
        layer its inputs' product, gates and states; the logits and their gradient.
        """
        architecture = self.architecture(vocabulary)
        kept = self.layers * (2 * GATES[self.cell] + 1) * self.units + 2 * len(vocabulary)
        return 4 * (4 * architecture.parameter_count + self.batch_size * self.seq_length * kept)


class TooLarge(ValueError):
    """The network does not fit this machine's memory."""


def check_memory(config: TrainingConfig, vocabulary: list[str]) -> None:
    """Raises TooLarge, before hours or the machine are lost, when a step can't fit the memory there is."""
    needed, available = config.memory(vocabulary), _memory()
    if needed > available:
        raise TooLarge(
            f"{config.layers} x {config.units:,} units with batches of {config.batch_size} x {config.seq_length} characters "
            f"need at least {needed / 2**30:,.1f} GiB of memory, of which there are {available / 2**30:,.1f}; "
            "take fewer --units or --layers, or a smaller --batch-size or --seq-length"
        )


def _memory() -> int:
    """Bytes of memory this process may use: the machine's, or less where its container (cgroup v2) says so."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return machine
    return machine if limit == "max" else min(machine, int(limit))
