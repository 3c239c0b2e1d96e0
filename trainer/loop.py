"""The training loop: step, save, evaluate, sample, and at the end publish the best epoch."""

import json
import time
from threading import Event
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import checkpoints, corpus, network, report, warm_start
from trainer.artifact import Scores, Version
from trainer.checkpoints import State
from trainer.config import TrainingConfig
from trainer.corpus import Corpus, Streams, Windows
from trainer.evaluation import Evaluator
from trainer.publish import best_epoch, cut_opening, find_published, publish
from trainer.report import EpochRow
from trainer.resources import TooLarge
from trainer.served import find_library
from trainer.step import Weights, optimizer_of, resolve_precision, training_step
from trainer.workers import Workers

CURVE_POINTS = 50  # recorded losses an epoch
EPOCH_SAMPLE_CHARACTERS = 300
TEMPERATURES = (0.5, 1.0)


class Diverged(Exception):
    """The loss is no longer a number."""


def train(
    config: TrainingConfig,
    text: Corpus,
    stop: Event | None = None,
    state: State | None = None,
    workers: Workers | None = None,
    init: Version | None = None,
) -> Version | None:
    """Trains a network on `text`, from `state` on if that is given, and publishes its best epoch.

    init: a new run starts from this version's weights. `config` has its architecture, `text` all of its vocabulary.
    Of several workers all train and one publishes: None for the others. Raises
    - KeyboardInterrupt when `stop` is set, the run saved: after the batch under way, or in the middle of scoring;
    - Diverged;
    - WorkerLost;
    - WorkersDisagree;
    - TooLarge when the device's memory does not suffice;
    - OSError when the run can't be saved;
    - ArtifactError when the version can't be written.
    """
    workers = workers or Workers()
    try:
        with workers.raising_worker_lost():
            run = fit(config, text, stop, state, workers, init)
        version = None
        if run.chief:
            version = (find_published(run) if state is not None else None) or publish(run)
            checkpoints.finish(config.work_dir)
        workers.wait_for_chief()
    except tf.errors.ResourceExhaustedError as error:
        first = error.message.partition("\n")[0]
        raise TooLarge(f"the device's memory is too small for this network and batch: {first}") from error
    return version


def fit(
    config: TrainingConfig,
    text: Corpus,
    stop: Event | None = None,
    state: State | None = None,
    workers: Workers | None = None,
    init: Version | None = None,
) -> "Run":
    """Trains until the last epoch or until the held-out score has not improved for `patience` epochs.

    The recurrent state is set to zero at each epoch's start and carried from batch to batch within it. Windows are not
    neighbours in the text, so there that means nothing: it is the tutorial's way, kept in its recipe on purpose.
    """
    make_deterministic(config.seed)
    run = Run(config, text, stop, workers)
    if state is not None:
        run.restore(state)
    elif init is not None:
        run.start_from(init)
    run.check_agreement()
    while run.epoch <= config.epochs and not _has_given_up(run.history, config.patience):
        for inputs, targets in run.examples.epoch(run.epoch, run.batch):
            stopped = run.train(inputs, targets, stop is not None and stop.is_set())
            # After the epoch's last batch too: scoring takes a while, and an interrupt in it ends the run.
            if stopped or run.batch % config.save_every == 0 or run.batch == len(run.examples):
                run.save()
            if stopped:
                raise KeyboardInterrupt
        run.end_epoch()
        run.save()
    return run


def make_deterministic(seed: int) -> None:
    """For the whole process: seeds Keras, which draws a new network's weights, and has TensorFlow's kernels repeat exactly."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


class Run:
    """A run as it stands: what is learnt, and where it is. `save` writes all of it, `restore` takes all of it back."""

    def __init__(self, config: TrainingConfig, text: Corpus, stop: Event | None = None, workers: Workers | None = None) -> None:
        """stop: see `train`; workers: this process alone unless given. Draws the first weights (see `make_deterministic`)."""
        self.stop, self.workers = stop, workers or Workers()
        self.chief = self.workers.index == 0
        # Settled here and saved: resumed on another machine, the run computes as it began.
        config = config.model_copy(update={"precision": resolve_precision(config.precision)})
        self.config, self.text = config, text
        trained_on, self.held_out = corpus.split(text.ids, config.held_out)
        order = Streams if config.examples == "streams" else Windows
        self.examples = order(
            ids=trained_on,
            seq_length=config.seq_length,
            batch_size=config.batch_size,
            seed=config.seed,
            workers=self.workers.count,
            worker=self.workers.index,
        )
        self.architecture = config.architecture(text.vocabulary.characters)
        batches = config.epochs * len(self.examples)

        # What is learnt
        self.weights: Weights = {name: v.value for name, v in network.variables(network.build(self.architecture, 1)).items()}
        self.averages = {name: tf.Variable(weight) for name, weight in self.weights.items()} if config.averaging else {}
        self.optimizer = optimizer_of(config, self.weights, batches)
        self.states = network.zero_states(self.architecture, config.batch_size)

        self.init_from: dict[str, Any] | None = None  # the published version that the first weights are from

        # Where the run is
        self.epoch, self.batch = 1, 0  # batches of this epoch that are done
        self.losses: list[float] = []  # of this epoch
        self.seconds = 0.0  # of this epoch, saving included
        self.history: list[EpochRow] = []

        self._step = training_step(
            config, self.architecture, self.weights, self.averages, self.optimizer, batches=batches, workers=self.workers
        )
        self.evaluator = Evaluator(self.architecture, stop)
        # Loaded now, so that it fits this process's code although a release may be installed while the run goes on.
        self.library = find_library(print) if self.chief and len(self.held_out) > 1 else None
        # A second network, for samples: it takes the averages, or an earlier epoch's weights, and `weights` stay as they are.
        self.single = network.build(self.architecture, 1)
        self.sampler = report.Sampler(self.single, text.vocabulary)
        self._characters = self.workers.count * config.batch_size * config.seq_length  # in a batch
        self._since: float | None = None  # when the batch before was done
        self._progress = report.Progress(config.epochs, len(self.examples), self._characters)
        self._summary = report.summary_writer(config.work_dir / "tensorboard") if self.chief else None

    def train(self, inputs: tf.Tensor, targets: tf.Tensor, stop: bool = False) -> bool:
        """Trains on one batch; returns whether a worker wants to `stop`. Raises Diverged."""
        start = self._since or time.perf_counter()
        number = tf.constant((self.epoch - 1) * len(self.examples) + self.batch)
        loss, flag, self.states = self._step(number, tf.constant(float(stop)), self.states, inputs, targets)
        loss = float(loss)
        if not np.isfinite(loss):
            raise Diverged(f"the loss is not a number at batch {self.batch + 1} of epoch {self.epoch}")
        self.batch += 1
        self.losses.append(loss)
        self._since = time.perf_counter()
        self.seconds += self._since - start
        if self.chief:
            self._progress.step(self.epoch, self.batch, loss)
        return bool(flag > 0)

    def end_epoch(self) -> None:
        """Scores and samples the epoch's weights, adds its row to the history, and writes its checkpoint.

        Raises WorkersDisagree.
        """
        self._since = None
        self.check_agreement()
        row: EpochRow = {
            "epoch": self.epoch,
            "last_loss": self.losses[-1],
            "mean_loss": sum(self.losses) / len(self.losses),
            "learning_rate": float(self.optimizer.learning_rate),
            "held_out": self._scores().model_dump(),
            "seconds": self.seconds,
            "characters_per_second": self.batch * self._characters / self.seconds,
            "losses": _thin(self.losses),
        }
        if self.chief:
            network.load(self.single, {name: weight.numpy() for name, weight in (self.averages or self.weights).items()})
            row["samples"] = {
                str(temperature): self.sampler.sample(cut_opening(self.text), EPOCH_SAMPLE_CHARACTERS, temperature, self.epoch)
                for temperature in TEMPERATURES
            }
            checkpoints.save(self.config.work_dir, self.epoch, network.tensors(self.single))
            self._progress.epoch(row)
            report.summarise(self._summary, row, len(self.examples))
        self.history.append(row)
        self.epoch, self.batch, self.losses, self.seconds = self.epoch + 1, 0, [], 0.0
        self.states = network.zero_states(self.architecture, self.config.batch_size)

    def check_agreement(self) -> None:
        """Raises WorkersDisagree unless this worker is where worker 0 is."""
        where = [
            self.config.model_dump(mode="json", exclude={"models_dir", "corpus", "init_from"}),
            self.text.sha256,
            self.epoch,
            self.batch,
        ]
        self.workers.check_agreement([json.dumps(where).encode(), *(w.numpy().tobytes() for w in self.weights.values())])

    def _scores(self) -> Scores:
        """The epoch's held-out scores, the chief's at all workers, so that they agree on whether to go on."""
        if len(self.held_out) < 2:
            return Scores()
        found = Scores(full_pass=0.0, cold_256=0.0)
        if self.chief:
            found = self.evaluator.scores(self.averages or self.weights, self.held_out, exact=False)
        return Scores(**{name: self.workers.from_chief(score) for name, score in found.model_dump().items()})

    def save(self) -> None:
        """Writes all that `restore` takes. Raises Diverged rather than overwrite a good state."""
        # A loss is of the weights before its step: what the last step did to them shows only here.
        if not all(np.isfinite(weight.numpy()).all() for weight in self.weights.values()):
            raise Diverged(f"a weight is not a number after batch {self.batch} of epoch {self.epoch}")
        tensors = {f"weights/{name}": weight.numpy() for name, weight in self.weights.items()}
        tensors |= {f"averages/{name}": average.numpy() for name, average in self.averages.items()}
        tensors |= {f"optimizer/{i}": variable.numpy() for i, variable in enumerate(self.optimizer.variables)}
        for i, state in enumerate(self.states):
            tensors |= {f"states/{i}/{j}": self.workers.gather_rows(value).numpy() for j, value in enumerate(state)}
        if not self.chief:
            return
        tensors["losses"] = np.array(self.losses, np.float64)
        progress = {
            "config": self.config.model_dump(mode="json"),
            "corpus": self.text.sha256,
            "vocabulary": self.text.vocabulary.characters,
            "init_from": self.init_from,
            "epoch": self.epoch,
            "batch": self.batch,
            "workers": self.workers.count,
            "seconds": self.seconds,
            "history": self.history,
        }
        checkpoints.save_state(self.config.work_dir, State(tensors, progress))

    def start_from(self, init: Version) -> None:
        """Takes a published version's weights; characters that it lacks keep the weights of a new network."""
        fresh = {name: weight.numpy() for name, weight in self.weights.items()}
        for name, tensor in warm_start.starting_weights(init, self.text.vocabulary.characters, fresh).items():
            for variables in (self.weights, self.averages):
                if name in variables:
                    variables[name].assign(tensor)
        self.init_from = warm_start.describe(init)

    def restore(self, state: State) -> None:
        """Takes back what `save` wrote."""
        tensors, progress = state.tensors, state.progress
        for name, weight in self.weights.items():
            weight.assign(tensors[f"weights/{name}"])
        for name, average in self.averages.items():
            average.assign(tensors[f"averages/{name}"])
        for i, variable in enumerate(self.optimizer.variables):
            if variable.path.split("/")[-1] != "learning_rate":  # an option, which may have changed
                variable.assign(tensors[f"optimizer/{i}"])
        mine = slice(self.workers.index * self.config.batch_size, (self.workers.index + 1) * self.config.batch_size)
        self.states = [
            tuple(tf.constant(tensors[f"states/{i}/{j}"][mine]) for j in range(len(state))) for i, state in enumerate(self.states)
        ]
        self.init_from = progress.get("init_from")  # not in what earlier releases saved
        self.epoch, self.batch = progress["epoch"], progress["batch"]
        self.losses, self.seconds, self.history = tensors["losses"].tolist(), progress["seconds"], progress["history"]


def _has_given_up(history: list[EpochRow], patience: int) -> bool:
    return bool(patience and history and history[-1]["epoch"] - best_epoch(history) >= patience)


def _thin(losses: list[float]) -> list[float]:
    """At most CURVE_POINTS means over consecutive steps: the curve of an epoch of any length."""
    width = -(-len(losses) // CURVE_POINTS)
    return [sum(part) / len(part) for part in (losses[i : i + width] for i in range(0, len(losses), width))]
