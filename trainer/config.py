"""The options of a training run, from flags, TRAINER_* variables and defaults."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from trainer.artifact import MAX_LAYERS, MAX_UNITS, Architecture, ModelName
from trainer.corpus import SHAKESPEARE, Newlines

RECIPES = ("best", "student", "tutorial")
RECIPE_VALUES: dict[str, tuple[Any, Any, Any]] = {
    "examples": ("streams", "streams", "windows"),
    "seq_length": (64, 64, 100),
    "epochs": (30, 30, 10),
    "learning_rate": (0.003, 0.003, 0.001),
    "schedule": ("cosine", "cosine", "constant"),
    "warmup": (0.02, 0.02, 0.0),
    "weight_decay": (0.05, 0.05, 0.0),
    "beta_2": (0.99, 0.99, 0.999),
    "clip_norm": (1.0, 1.0, 0.0),
    # What teachers write is never seen twice, so a student can't learn it by heart, and needs no dropout.
    "weight_drop": (0.3, 0.0, 0.0),
    "output_dropout": (0.3, 0.0, 0.0),
    "embedding_dropout": (0.1, 0.0, 0.0),
    "averaging": (0.998, 0.998, 0.0),
    "held_out": (0.1, 0.1, 0.0),
    "patience": (6, 6, 0),
}
"""Each recipe's values, in the order of RECIPES, for options that are not given."""


def recipe_values(option: str) -> dict[str, Any]:
    """An option's value by recipe. `student` is left out where it is like `best`. Empty if the option is not a recipe's."""
    values = dict(zip(RECIPES, RECIPE_VALUES.get(option, ()), strict=False))
    return {name: value for name, value in values.items() if name != "student" or value != values["best"]}


Rate = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(BaseSettings):
    """The options of one training run. Options that are not given have the recipe's value."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_", env_ignore_empty=True, frozen=True, extra="forbid")

    recipe: Literal["best", "student", "tutorial"] = Field(
        "best",
        description="best: with regularization, scored on held-out text; student: best without dropout, the default with "
        "--teacher; tutorial: as in TensorFlow's tutorial",
    )
    corpus: list[Path] = Field(
        default_factory=lambda: [SHAKESPEARE],
        min_length=1,
        description="UTF-8 text files, concatenated (default: Shakespeare's plays, which come with this package)",
    )
    newlines: Newlines = Field("universal", description="line endings: universal converts CRLF and CR to LF, keep keeps them")
    name: ModelName = Field(
        "shakespeare",
        description="the model's name; the run publishes its next version; with --corpus FILE, the default is the file's name",
    )
    models_dir: Path = Field(Path("models"), description="the folder that versions are published in")
    init_from: Path | None = Field(
        None,
        description="start with the weights and architecture of a published version: models/<name>/<version>, or models/<name> "
        "for its newest version",
    )
    teacher: list[Path] = Field(
        default_factory=list,
        description="published versions whose averaged predictions the network learns from, on text that they write: "
        "models/<name>/<version>, or models/<name> for its newest version (default: none)",
    )
    teachers_at_a_time: int = Field(
        2, ge=1, description="with --teacher: number of teachers that write each passage, drawn at random for each"
    )
    text_share: Rate = Field(0.3, description="with --teacher: fraction of a passage, at its beginning, that is the text's own")
    cell: Literal["gru", "lstm"] = Field("gru", description="recurrent cell: gru or lstm")
    layers: int = Field(1, ge=1, le=MAX_LAYERS, description="number of recurrent layers")
    units: int = Field(1024, ge=1, le=MAX_UNITS, description="units in each recurrent layer")
    embedding: int = Field(256, ge=1, le=MAX_UNITS, description="size of a character's embedding")
    examples: Literal["streams", "windows"] = Field(
        description="streams: contiguous batches, each row continues the same row of the previous batch; "
        "windows: shuffled windows of the text"
    )
    seq_length: int = Field(ge=1, description="characters in a row of a batch")
    batch_size: int = Field(64, ge=1, description="rows in a batch")
    epochs: int = Field(ge=1, description="passes over the text")
    learning_rate: float = Field(gt=0, allow_inf_nan=False, description="Adam's learning rate, at its highest")
    schedule: Literal["cosine", "constant"] = Field(
        description="learning rate after the warm-up: cosine decays it to 0, constant keeps it"
    )
    warmup: Rate = Field(description="fraction of the run in which the learning rate rises from 0")
    weight_decay: float = Field(ge=0, allow_inf_nan=False, description="decoupled weight decay (AdamW) of all weights but biases")
    beta_2: Rate = Field(description="decay rate of Adam's second moment")
    clip_norm: float = Field(ge=0, allow_inf_nan=False, description="maximum global norm of the gradient; 0: no clipping")
    weight_drop: Rate = Field(description="dropout rate of the recurrent kernels, with one mask for all steps of a batch")
    output_dropout: Rate = Field(description="dropout rate of each layer's outputs, with one mask for all steps of a row")
    embedding_dropout: Rate = Field(description="dropout rate of the embedding's elements, with one mask for a batch")
    averaging: Rate = Field(
        description="decay of the weights' exponential moving average, which is scored and published; 0: no averaging"
    )
    scheduled_sampling: Rate = Field(
        0.0, description="fraction of inputs replaced by the model's own characters; it rises from 0 during the run"
    )
    held_out: float = Field(
        ge=0, le=0.5, description="fraction of the text, at its end, that is held out and scored after each epoch; 0: none"
    )
    patience: int = Field(ge=0, description="stop after this many epochs without a better held-out score; 0: never")
    precision: Literal["auto", "f32", "bf16"] = Field(
        "auto", description="operand type of the large matrix products; auto: bf16 on CPUs with bfloat16 instructions, else f32"
    )
    save_every: int = Field(100, ge=1, description="number of batches between saves of the state that --resume continues from")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the initial weights, the order of the batches and dropout")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_recipe(cls, given: dict[str, Any]) -> dict[str, Any]:
        recipe = given.get("recipe") or ("student" if given.get("teacher") else "best")
        column = RECIPES.index(recipe) if recipe in RECIPES else 0  # an unknown one is refused by its own field
        return {option: values[column] for option, values in RECIPE_VALUES.items()} | {"recipe": recipe} | given

    @property
    def work_dir(self) -> Path:
        """The folder that a run saves its state in. Readers of versions ignore it."""
        return self.models_dir / self.name / ".training"

    def architecture(self, vocabulary: list[str]) -> Architecture:
        return Architecture(cell=self.cell, layers=self.layers, units=self.units, embedding=self.embedding, vocabulary=vocabulary)
