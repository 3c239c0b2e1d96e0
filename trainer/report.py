"""What a person sees of a run: the progress line, the loss curve, and TensorBoard's files."""

import io
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import tensorflow as tf

from trainer.history import EpochRow

LOG_EVERY = 100  # batches between log lines, as in the tutorial


class ProgressLine:
    """Loss, speed and time left. On a terminal it rewrites one line in place. Elsewhere it logs a line every 100 batches."""

    def __init__(self, epochs: int, batches: int, characters: int, stream: TextIO | None = None) -> None:
        """batches: in an epoch. characters: in a batch. stream: standard output by default."""
        self.epochs, self.batches, self.characters = epochs, batches, characters
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.start, self.done, self.held_out = time.perf_counter(), 0, ""

    def step(self, epoch: int, batch: int, loss: float) -> None:
        """Shows that `batch` batches of `epoch` (from 1) are done."""
        self.done += 1
        rate = self.done / (time.perf_counter() - self.start)
        left = ((self.epochs - epoch + 1) * self.batches - batch) / rate
        line = (
            f"epoch {epoch}/{self.epochs}  batch {batch}/{self.batches}  loss {loss:.4f}{self.held_out}  "
            f"{rate * self.characters:,.0f} characters/s  {_format_duration(left)} left"
        )
        if self.terminal:
            line = line[: shutil.get_terminal_size().columns - 1]  # a wrapped line can't be rewritten
            print(f"\r\033[K{line}", end="", file=self.stream, flush=True)
        elif batch % LOG_EVERY == 0 or batch == 1:
            print(line, file=self.stream, flush=True)

    def epoch(self, row: EpochRow) -> None:
        """Shows that an epoch is done."""
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


def _format_duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def loss_curve(history: Sequence[EpochRow], best: int, title: str) -> bytes:
    """A PNG of the training loss and the held-out loss by epoch. The best epoch is marked."""
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


def summary_writer(folder: Path) -> Any:
    """TensorBoard's writer for a file in `folder`."""
    with _raising_os_error():
        return tf.summary.create_file_writer(str(folder))


def write_summary(writer: Any, row: EpochRow, batches: int) -> None:
    """Writes an epoch's losses, scores, learning rate and speed for TensorBoard. batches: in an epoch."""
    with _raising_os_error(), writer.as_default():
        first, width = (row["epoch"] - 1) * batches, batches / len(row["losses"])
        for i, loss in enumerate(row["losses"]):
            tf.summary.scalar("loss/training", loss, step=first + round((i + 1) * width))
        for name, score in row["held_out"].items():
            if score is not None:
                tf.summary.scalar(f"loss/{name}", score, step=first + batches)
        tf.summary.scalar("learning_rate", row["learning_rate"], step=first + batches)
        tf.summary.scalar("characters_per_second", row["characters_per_second"], step=first + batches)
        writer.flush()


def summary_file(history: Sequence[EpochRow], batches: int) -> bytes:
    """The whole run as one TensorBoard file. batches: in an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        writer = summary_writer(Path(folder))
        for row in history:
            write_summary(writer, row, batches)
        writer.close()
        (file,) = Path(folder).iterdir()
        return file.read_bytes()


@contextmanager
def _raising_os_error() -> Iterator[None]:
    """Turns TensorFlow's errors into OSError: TensorFlow writes TensorBoard's files."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"writing TensorBoard's file failed: {error.message.splitlines()[0]}") from error
