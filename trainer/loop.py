"""The training loop: step, checkpoint, and at the end publish."""

import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Event
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import __version__, artifact, checkpoints, corpus, network, recurrence, report
from trainer.artifact import Version
from trainer.checkpoints import Checkpoint
from trainer.config import TooLarge, TrainingConfig
from trainer.corpus import Corpus

CURVE_POINTS = 50  # recorded losses an epoch
SAMPLE_CHARACTERS = 1000

Step = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class Diverged(Exception):
    """The loss is no longer a number."""


def train(config: TrainingConfig, text: Corpus, stop: Event | None = None) -> Version:
    """Trains a network on `text` and publishes its latest checkpoint.

    Raises KeyboardInterrupt after the batch in which `stop` was set, Diverged, TooLarge when the device's memory does not
    suffice, or ArtifactError when the version can't be written.
    """
    try:
        fit(config, text, stop)
    except tf.errors.ResourceExhaustedError as error:
        raise TooLarge(f"the device's memory is too small for this network and batch: {error.message.splitlines()[0]}") from error
    last = checkpoints.latest(config.work_dir)
    if last is None:
        raise FileNotFoundError(f"{config.work_dir}: the run's checkpoints are gone")
    return publish(config, text, checkpoints.load(last))


def fit(config: TrainingConfig, text: Corpus, stop: Event | None = None) -> None:
    """Trains for config.epochs, saving a checkpoint after each.

    The state is set to zero at each epoch's start and carried from batch to batch within it, over windows that are not
    neighbours in the text, and nothing is held out: both are the tutorial's ways, kept in its recipe on purpose.
    """
    keras.utils.set_random_seed(config.seed)
    tf.config.experimental.enable_op_determinism()
    model = network.build(config.architecture(text.vocabulary.characters), config.batch_size)
    optimizer = keras.optimizers.Adam(config.learning_rate)
    step = training_step(model, optimizer)
    batches = corpus.batches(text.ids, seq_length=config.seq_length, batch_size=config.batch_size, seed=config.seed)
    steps, characters = len(batches), config.batch_size * config.seq_length

    progress = report.Progress(config.epochs, steps, characters)
    history: list[dict[str, Any]] = []
    for epoch in range(1, config.epochs + 1):
        start, losses = time.perf_counter(), []
        network.reset_state(model)
        for batch, (inputs, targets) in enumerate(batches):
            loss = float(step(inputs, targets))
            if loss != loss:  # NaN
                raise Diverged(f"the loss is not a number at batch {batch} of epoch {epoch}; try a smaller --learning-rate")
            losses.append(loss)
            progress.step(epoch, batch, loss)
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
        seconds = time.perf_counter() - start
        progress.epoch(epoch, losses[-1], seconds)
        history.append(
            {
                "epoch": epoch,
                "last_loss": losses[-1],
                "mean_loss": sum(losses) / steps,
                "seconds": seconds,
                "characters_per_second": steps * characters / seconds,
                "losses": _thinned(losses),
            }
        )
        checkpoint = Checkpoint(
            network.tensors(model), [v.numpy() for v in optimizer.variables], {"epoch": epoch, "history": history}
        )
        checkpoints.save(config.work_dir, epoch, checkpoint)


def training_step(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Step:
    """One step of gradient descent: (inputs, targets), int32 [batch, steps] -> mean loss in nats per character."""
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    fast = recurrence.applies_to(model)
    optimizer.build(model.trainable_variables)

    @tf.function  # type: ignore[untyped-decorator]
    def step(inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = recurrence.logits(model, inputs) if fast else model(inputs, training=True)
            loss = loss_of(targets, logits)
        # Dense: for a row that occurs twice in a batch Keras's Adam adds squares of its sparse gradient's parts, not their sum's.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, model.trainable_variables)]
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return step  # type: ignore[no-any-return]


def publish(config: TrainingConfig, text: Corpus, checkpoint: Checkpoint) -> Version:
    """Publishes a checkpoint with its history, loss curve and a sample from the network rebuilt with batch size 1."""
    history = checkpoint.progress["history"]
    architecture = config.architecture(text.vocabulary.characters)
    single = network.build(architecture, batch_size=1)
    network.load(single, checkpoint.weights)
    sample = report.sample(single, text.vocabulary, _opening(text), characters=SAMPLE_CHARACTERS, temperature=1.0, seed=config.seed)
    options = config.model_dump(mode="json", include={"epochs", "seq_length", "batch_size", "learning_rate", "seed"})
    return artifact.publish(
        config.models_dir,
        {
            "name": config.name,
            **architecture.model_dump(),
            "characters": len(text.ids),
            "recipe": config.recipe,
            "training": {
                **options,
                "corpus": [_printable(path.name) for path in config.corpus],
                "last_loss": history[-1]["last_loss"],
            },
            "scores": {"full_pass": None, "cold_256": None},
            "sha256": {"corpus": text.sha256},
            "packages": {
                "folio": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                "keras": keras.__version__,
                "tensorflow": tf.__version__,
            },
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        checkpoint.weights,
        {
            "training.json": json.dumps({**options, "history": history}, indent=1).encode(),
            "loss.png": report.loss_curve(history, f"{config.name}, recipe {config.recipe}"),
            "sample.txt": sample.encode(),
        },
    )


def _opening(text: Corpus, longest: int = 40) -> str:
    """The text's first line with its line break, at most `longest` characters: a start string that any corpus has."""
    return text.vocabulary.decode(text.ids[:longest].tolist()).splitlines(keepends=True)[0]


def _printable(name: str) -> str:
    """A file's name as text, the bytes of it that are no UTF-8 escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _thinned(losses: list[float]) -> list[float]:
    """At most CURVE_POINTS means over consecutive steps: the curve of an epoch of any length."""
    width = -(-len(losses) // CURVE_POINTS)
    return [sum(part) / len(part) for part in (losses[i : i + width] for i in range(0, len(losses), width))]
