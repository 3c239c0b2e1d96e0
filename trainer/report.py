"""What a person sees of a run: the progress line, the loss curve, a sample of text."""

import io
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from trainer.vocabulary import Vocabulary

if TYPE_CHECKING:
    import keras

LINE_EVERY = 100  # batches between lines in a log, as in the tutorial


class Progress:
    """Loss, speed and time left: one line rewritten in place on a terminal, a line every 100 batches in a log."""

    def __init__(self, epochs: int, steps: int, characters: int, stream: TextIO | None = None) -> None:
        """steps: batches in an epoch; characters: in a batch; stream: where to write, standard output unless given."""
        self.epochs, self.steps, self.characters = epochs, steps, characters
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.start = time.perf_counter()

    def step(self, epoch: int, batch: int, loss: float) -> None:
        """Batch `batch` (from 0) of `epoch` (from 1) is done."""
        done = (epoch - 1) * self.steps + batch + 1
        rate = done / (time.perf_counter() - self.start)
        left = (self.epochs * self.steps - done) / rate
        line = (
            f"epoch {epoch}/{self.epochs}  batch {batch}/{self.steps}  loss {loss:.4f}  "
            f"{rate * self.characters:,.0f} characters/s  {_duration(left)} left"
        )
        if self.terminal:
            print(f"\r\033[K{line}", end="", file=self.stream, flush=True)
        elif batch % LINE_EVERY == 0:
            print(line, file=self.stream, flush=True)

    def epoch(self, epoch: int, loss: float, seconds: float) -> None:
        """`epoch` is done; loss: its last batch's."""
        clear = "\r\033[K" if self.terminal else ""
        print(f"{clear}epoch {epoch}/{self.epochs}  loss {loss:.4f}  {seconds:.1f} s", file=self.stream, flush=True)


def loss_curve(history: Sequence[dict[str, Any]], title: str) -> bytes:
    """A PNG of the training loss over the epochs of `history` (as `trainer.loop.fit` records it)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    epochs = [row["epoch"] - 1 + (i + 1) / len(row["losses"]) for row in history for i in range(len(row["losses"]))]
    axes.plot(epochs, [loss for row in history for loss in row["losses"]], linewidth=1)
    axes.set(title=title, xlabel="epoch", ylabel="training loss, nats per character")
    axes.grid(alpha=0.3)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def sample(
    network: "keras.Model", vocabulary: Vocabulary, start_string: str, *, characters: int, temperature: float, seed: int
) -> str:
    """start_string and `characters` more, drawn one call at a time from a network of batch size 1.

    The tutorial's loop: zero state, the start string read, the last step's logits divided by the temperature, one draw,
    the draw fed back. The draw inverts the distribution's CDF at the i-th uniform of Philox(seed), as the service does.
    """
    import tensorflow as tf

    from trainer.network import reset_state

    forward = tf.function(network)
    uniforms = np.random.Generator(np.random.Philox(key=seed)).random(characters, np.float32)
    reset_state(network)
    ids = vocabulary.encode(start_string)[None]
    text = [start_string]
    for uniform in uniforms:
        logits = forward(ids)[0, -1].numpy() / np.float32(temperature)
        cdf = np.cumsum(np.exp(logits - logits.max()))
        ids = np.array([[min(int((cdf <= uniform * cdf[-1]).sum()), len(vocabulary) - 1)]], np.int32)
        text.append(vocabulary.characters[ids[0, 0]])
    return "".join(text)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
