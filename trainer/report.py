"""What a person sees of a run: the progress line, the loss curve, a sample of text."""

import io
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TextIO, TypedDict

import numpy as np

from trainer.vocabulary import Vocabulary

if TYPE_CHECKING:
    import keras

LINE_EVERY = 100  # batches between lines in a log, as in the tutorial


class EpochRow(TypedDict):
    """An epoch in a run's history, which training.json lists. Losses and scores are nats per character."""

    epoch: int  # from 1
    last_loss: float  # of the last batch
    mean_loss: float  # over all batches
    learning_rate: float  # after the last batch
    held_out: dict[str, float | None]  # artifact.Scores; full_pass is the fast estimate, config.json has the exact one
    seconds: float  # of training, saves between batches included, scoring and sampling not
    characters_per_second: float  # of all workers together
    losses: list[float]  # the training curve: means over consecutive batches
    samples: NotRequired[dict[str, str]]  # by temperature; only worker 0 draws them


class Progress:
    """Loss, speed and time left: one line rewritten in place on a terminal, a line every 100 batches in a log."""

    def __init__(self, epochs: int, steps: int, characters: int, stream: TextIO | None = None) -> None:
        """steps: batches in an epoch; characters: in a batch; stream: where to write, standard output unless given."""
        self.epochs, self.steps, self.characters = epochs, steps, characters
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.start, self.done, self.held_out = time.perf_counter(), 0, ""

    def step(self, epoch: int, batch: int, loss: float) -> None:
        """`batch` batches of `epoch` (from 1) are done."""
        self.done += 1
        rate = self.done / (time.perf_counter() - self.start)
        left = ((self.epochs - epoch + 1) * self.steps - batch) / rate
        line = (
            f"epoch {epoch}/{self.epochs}  batch {batch}/{self.steps}  loss {loss:.4f}{self.held_out}  "
            f"{rate * self.characters:,.0f} characters/s  {_format_duration(left)} left"
        )
        if self.terminal:
            line = line[: shutil.get_terminal_size().columns - 1]  # a wrapped line can't be rewritten
            print(f"\r\033[K{line}", end="", file=self.stream, flush=True)
        elif batch % LINE_EVERY == 0 or batch == 1:
            print(line, file=self.stream, flush=True)

    def epoch(self, row: EpochRow) -> None:
        """An epoch is done."""
        full_pass, cold = row["held_out"]["full_pass"], row["held_out"]["cold_256"]
        if full_pass is not None:
            self.held_out = f"  held out {full_pass:.4f}"
        scores = "" if full_pass is None else f"  held out: full pass {full_pass:.4f}, cold 256 {cold:.4f}"
        clear = "\r\033[K" if self.terminal else ""
        print(
            f"{clear}epoch {row['epoch']}/{self.epochs}  loss {row['mean_loss']:.4f}{scores}  {_format_duration(row['seconds'])}",
            file=self.stream,
        )
        for temperature, text in row["samples"].items():
            print(f"  temperature {temperature}: {text!r}", file=self.stream, flush=True)


def loss_curve(history: Sequence[EpochRow], best: int, title: str) -> bytes:
    """A PNG of training and held-out loss over the epochs of `history`, the best epoch marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    epochs = [row["epoch"] - 1 + (i + 1) / len(row["losses"]) for row in history for i in range(len(row["losses"]))]
    axes.plot(epochs, [loss for row in history for loss in row["losses"]], linewidth=1, label="training")
    scored = [(row["epoch"], score) for row in history if (score := row["held_out"]["full_pass"]) is not None]
    if scored:
        axes.plot(*zip(*scored, strict=True), marker=".", label="held out, full pass")
        lowest = dict(scored)[best]
        axes.plot(best, lowest, "o", fillstyle="none", markersize=10, color="black", label=f"best: {lowest:.4f}, epoch {best}")
    axes.set(title=title, xlabel="epoch", ylabel="loss, nats per character")
    axes.legend()
    axes.grid(alpha=0.3)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


@contextmanager
def _raising_os_error() -> Iterator[None]:
    """Raises OSError where TensorFlow, which writes TensorBoard's files, raises an error of its own."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"writing TensorBoard's file failed: {error.message.splitlines()[0]}") from error


def summary_writer(folder: Path) -> Any:
    """TensorBoard's writer for a file in `folder`."""
    import tensorflow as tf

    with _raising_os_error():
        return tf.summary.create_file_writer(str(folder))


def summarise(writer: Any, row: EpochRow, steps: int) -> None:
    """Writes an epoch's losses, scores, learning rate and speed for TensorBoard; steps: batches in an epoch."""
    import tensorflow as tf

    with _raising_os_error(), writer.as_default():
        first, width = (row["epoch"] - 1) * steps, steps / len(row["losses"])
        for i, loss in enumerate(row["losses"]):
            tf.summary.scalar("loss/training", loss, step=first + round((i + 1) * width))
        for name, score in row["held_out"].items():
            if score is not None:
                tf.summary.scalar(f"loss/{name}", score, step=first + steps)
        tf.summary.scalar("learning_rate", row["learning_rate"], step=first + steps)
        tf.summary.scalar("characters_per_second", row["characters_per_second"], step=first + steps)
        writer.flush()


def summary_file(history: Sequence[EpochRow], steps: int) -> bytes:
    """The whole run as one TensorBoard file; steps: batches in an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        writer = summary_writer(Path(folder))
        for row in history:
            summarise(writer, row, steps)
        writer.close()
        (file,) = Path(folder).iterdir()
        return file.read_bytes()


class Sampler:
    """Text from a network, one call for each character: the tutorial's loop.

    From a zero state it reads the start string, divides the last step's logits by the temperature, draws a character, and
    feeds it back. The i-th draw inverts the distribution's CDF at the i-th uniform of Philox(seed), as the service does.
    """

    def __init__(self, network: "keras.Model", vocabulary: Vocabulary) -> None:
        """The network's weights may change between samples."""
        from trainer.network import one_step, recurrent_layers

        self._step, self._cells = one_step(network), [layer.cell for layer in recurrent_layers(network)]
        self._vocabulary = vocabulary

    def sample(self, start_string: str, characters: int, temperature: float, seed: int) -> str:
        """start_string and `characters` more."""
        uniforms = np.random.Generator(np.random.Philox(key=seed)).random(characters, np.float32)
        states = [cell.get_initial_state(batch_size=1) for cell in self._cells]
        unread, text = self._vocabulary.encode(start_string).tolist(), [start_string]
        for uniform in uniforms:
            for character in unread:
                logits, states = self._step(np.array([character], np.int32), states)
            scaled = logits.numpy()[0] / np.float32(temperature)
            cdf = np.cumsum(np.exp(scaled - scaled.max()))
            unread = [min(int((cdf <= uniform * cdf[-1]).sum()), len(self._vocabulary) - 1)]
            text.append(self._vocabulary.characters[unread[0]])
        return "".join(text)


def _format_duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
