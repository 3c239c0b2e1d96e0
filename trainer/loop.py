"""The training loop. `fit` reads from top to bottom: for each batch step and save, for each epoch evaluate, sample, log, save."""

import json
import time
from collections.abc import Sequence
from functools import partial
from threading import Event
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer import checkpoints, report
from trainer.artifact import Scores, Version
from trainer.batches import BATCHES, Batches, split
from trainer.checkpoints import SavedState
from trainer.config import TrainingConfig
from trainer.corpus import Corpus
from trainer.errors import Diverged, OutOfMemory
from trainer.evaluation import Evaluator
from trainer.history import EpochRow, has_stalled, thin
from trainer.publish import find_published, publish
from trainer.sampling import opening, sample
from trainer.served import find_library
from trainer.state import TrainingState
from trainer.step import resolve_precision, training_step
from trainer.teachers import Teachers
from trainer.workers import Workers
from trainer.written import WrittenBatches

EPOCH_SAMPLE_CHARACTERS = 300
TEMPERATURES = (0.5, 1.0)


def train(
    config: TrainingConfig,
    text: Corpus,
    stop: Event | None = None,
    saved: SavedState | None = None,
    workers: Workers | None = None,
    init: Version | None = None,
    teachers: Sequence[Version] = (),
) -> Version | None:
    """Trains a network on `text` and publishes its best epoch. Only the chief publishes; other workers return None.

    stop: when it is set, the state is saved and KeyboardInterrupt is raised. saved: the state to resume from. init: the version
    whose weights a new run starts from. `config` must have its architecture, and `text` its characters. teachers: the versions that
    write what the network learns from. They must have the vocabulary of `text`.
    Raises Diverged, WorkerLost, WorkersDisagree, OutOfMemory, OSError if the state can't be saved, and ArtifactError if the
    version can't be written.
    """
    workers = workers or Workers()
    version = None
    try:
        with workers.raising_worker_lost():
            run = Run(config, text, stop, workers, teachers)
            fit(run, saved, init)
        if workers.is_chief:
            # A run that was killed between publishing and deleting its state must not publish again.
            version = (find_published(run) if saved is not None else None) or publish(run)
            checkpoints.delete_state(config.work_dir)
        workers.wait_for_chief()
    except tf.errors.ResourceExhaustedError as error:
        reason = error.message.partition("\n")[0]
        raise OutOfMemory(f"the device's memory is too small for this network and batch: {reason}") from error
    return version


def fit(run: "Run", saved: SavedState | None = None, init: Version | None = None) -> None:
    """Trains until the last epoch, or until the held-out score has not improved for `patience` epochs.

    The recurrent state is zero at the start of an epoch, and where teachers begin a passage. It is carried from batch to batch.
    Shuffled batches carry it too, although consecutive windows are not neighbours in the text: TensorFlow's tutorial does so.
    """
    config, state = run.config, run.state
    if saved is not None:
        state.restore(saved, run.workers.rank)
    elif init is not None:
        state.start_from(init, run.architecture.vocabulary)
    run.check_agreement()

    while state.epoch <= config.epochs and not has_stalled(state.history, config.patience):
        for batch in run.batches.epoch(state.epoch, state.batch):
            stopped = run.step(*batch)
            # The last batch is saved too: scoring takes a while, and an interrupt during it ends the run.
            if stopped or state.batch % config.save_every == 0 or state.batch == len(run.batches):
                run.save()
            if stopped:
                raise KeyboardInterrupt
        run.check_agreement()
        run.end_epoch(run.evaluate(), run.sample())
        run.save()


def make_deterministic(seed: int) -> None:
    """Seeds Keras, which draws the first weights, and makes TensorFlow's kernels deterministic. For the whole process."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


class Run:
    """A run. Everything that changes while it trains is in `state`; the rest follows from the options and the text."""

    def __init__(
        self,
        config: TrainingConfig,
        text: Corpus,
        stop: Event | None = None,
        workers: Workers | None = None,
        teachers: Sequence[Version] = (),
    ) -> None:
        """Draws the first weights. stop, teachers: see `train`."""
        make_deterministic(config.seed)
        # Resolved now and saved, so that a run resumed on another machine computes with the same precision.
        self.config = config.model_copy(update={"precision": resolve_precision(config.precision)})
        self.text, self.stop, self.workers = text, stop or Event(), workers or Workers()
        self.architecture = config.architecture(text.vocabulary.characters)
        trained_on, self.held_out = split(text.ids, config.held_out)
        # Loaded now, so that it matches this process's code even if a new release is installed during the run.
        self.library = find_library(print) if teachers or self.workers.is_chief else None
        text_batches = BATCHES[config.examples](trained_on, config.seq_length, config.batch_size, config.seed, self.workers.worker)
        self.batches: Batches | WrittenBatches = text_batches
        if teachers:
            self.batches = WrittenBatches(text_batches, config, partial(Teachers, teachers, config.batch_size, self.library))
        batches = config.epochs * len(self.batches)
        self.state = state = TrainingState.new(self.config, self.architecture, batches)
        state.teachers = [teacher.reference for teacher in teachers]
        learnt = state.weights, state.ema_weights, state.optimizer
        self._step = training_step(self.config, self.architecture, *learnt, batches=batches, workers=self.workers)
        self.evaluator = Evaluator(self.architecture, self.stop)
        self._batch_characters = self.batches.rows * config.seq_length
        self._last_batch_at: float | None = None
        self._progress = report.ProgressLine(config.epochs, len(self.batches), self._batch_characters)
        self._summary = report.summary_writer(config.work_dir / "tensorboard") if self.workers.is_chief else None

    def step(self, inputs: Any, targets: Any, fresh: NDArray[np.bool_] | None = None) -> bool:
        """Trains on one batch, from a zero state in the rows that are `fresh`. Raises Diverged.

        Returns whether a worker received a signal to stop. targets: see `trainer.step.training_step`.
        """
        state = self.state
        if fresh is not None:
            state.start_again(fresh)
        start = self._last_batch_at or time.perf_counter()
        number = tf.constant((state.epoch - 1) * len(self.batches) + state.batch)
        flag = tf.constant(float(self.stop.is_set()))
        loss, flag, state.recurrent = self._step(number, flag, state.recurrent, inputs, targets)
        loss = float(loss)
        if not np.isfinite(loss):
            raise Diverged(f"the loss is not a number at batch {state.batch + 1} of epoch {state.epoch}")
        state.batch += 1
        state.losses.append(loss)
        self._last_batch_at = time.perf_counter()
        state.seconds += self._last_batch_at - start
        if self.workers.is_chief:
            self._progress.step(state.epoch, state.batch, loss)
        return bool(flag > 0)

    def save(self) -> None:
        """Writes the state to disk. Raises Diverged."""
        saved = self.state.saved(self.config, self.text, self.workers)
        if self.workers.is_chief:
            checkpoints.save_state(self.config.work_dir, saved)

    def check_agreement(self) -> None:
        """Raises WorkersDisagree unless this worker has the state of worker 0."""
        options = self.config.model_dump(mode="json", exclude={"models_dir", "corpus", "init_from", "teacher"})
        position = json.dumps([options, self.text.sha256, self.state.teachers, self.state.epoch, self.state.batch])
        self.workers.check_agreement([position.encode(), *(w.numpy().tobytes() for w in self.state.weights.values())])

    def evaluate(self) -> Scores:
        """The epoch's held-out scores. All workers get the chief's, so that they agree on when to stop."""
        if len(self.held_out) < 2:
            return Scores()
        scores = Scores(full_pass=0.0, cold_256=0.0)
        if self.workers.is_chief:
            scores = self.evaluator.scores(self.state.scored_weights, self.held_out, exact=False)
        return Scores(**{name: self.workers.from_chief(score) for name, score in scores.model_dump().items()})

    def sample(self) -> dict[str, str]:
        """Texts by temperature. Only the chief generates them."""
        if not self.workers.is_chief:
            return {}
        tensors = {name: weight.numpy() for name, weight in self.state.scored_weights.items()}
        length, seed = EPOCH_SAMPLE_CHARACTERS, self.state.epoch
        texts = sample(self.architecture, tensors, opening(self.text), length, TEMPERATURES, seed, self.library)
        return dict(zip(map(str, TEMPERATURES), texts, strict=True))

    def end_epoch(self, scores: Scores, samples: dict[str, str]) -> None:
        """Adds the epoch to the history, writes its checkpoint, logs it, and sets the state to the next epoch."""
        state = self.state
        row: EpochRow = {
            "epoch": state.epoch,
            "last_loss": state.losses[-1],
            "mean_loss": sum(state.losses) / len(state.losses),
            "learning_rate": float(state.optimizer.learning_rate),
            "held_out": scores.model_dump(),
            "seconds": state.seconds,
            "characters_per_second": state.batch * self._batch_characters / state.seconds,
            "losses": thin(state.losses),
        }
        if self.workers.is_chief:
            row["samples"] = samples
            weights = {name: weight.numpy() for name, weight in state.scored_weights.items()}
            checkpoints.save(self.config.work_dir, state.epoch, weights)
            self._progress.epoch(row)
            report.write_summary(self._summary, row, len(self.batches))
        state.history.append(row)
        state.next_epoch()
        self._last_batch_at = None
