"""Batches of text that teachers write, with the probabilities that they predict. Does not know files or training.

A network learns more from text that its teachers write than from the text that they learnt. On their own training text their
predictions are overconfident. Text that they write is new and unlimited. docs/distillation.md has the figures.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.batches import Batches, prefetched
from trainer.config import TrainingConfig
from trainer.teachers import Floats, Teachers, draw

PASSAGE = 1024  # characters


class WrittenBatch(NamedTuple):
    inputs: NDArray[np.int32]  # [batch_size, seq_length]
    targets: Floats  # [batch_size, seq_length, vocabulary]: the probabilities of the character after each input
    fresh: NDArray[np.bool_]  # [batch_size]: rows in which a passage begins. The network reads it from a zero state


class WrittenBatches:
    """Passages that begin with the text and that teachers continue. An epoch has as many characters as the text.

    A passage begins at a random place of the text. A fraction of it, `text_share`, is the text, with the text's own characters as
    targets. Each passage draws its own teachers. They read the text's part, then write the rest. The targets there are the means
    of their predictions. Passages begin at different batches in different rows. What is written depends only on the text, the
    teachers, the options, the seed and the epoch.
    """

    def __init__(self, text: Batches, config: TrainingConfig, open_teachers: Callable[[], Teachers]) -> None:
        """text: batches of the same shape that are the text alone. open_teachers: opens all teachers, for `batch_size` rows."""
        self.text, self.config, self.open_teachers = text, config, open_teachers
        self.rows = text.rows
        self.passage = max(1, PASSAGE // text.seq_length)  # batches

    def __len__(self) -> int:
        return len(self.text)

    def epoch(self, number: int, start: int = 0) -> Iterator[WrittenBatch]:
        """The epoch's batches from number `start`."""
        return prefetched(self._write(number, start))

    def _write(self, number: int, start: int) -> Iterator[WrittenBatch]:
        if start >= len(self):
            return
        writer = Writer(self, number)
        # In any `passage` consecutive batches each row begins a passage, and nothing before it matters.
        for batch in range(max(0, start - self.passage + 1), len(self)):
            written = writer.write(batch)
            if batch >= start:
                yield written


class Writer:
    """Writes the batches of an epoch, one after another. In each row a passage is open."""

    def __init__(self, batches: WrittenBatches, number: int) -> None:
        """number: of the epoch."""
        text, self._teachers = batches.text, batches.open_teachers()
        self._key, self._text, self._passage, self._num_batches = [text.seed, number], text, batches.passage, len(batches)
        self._mine = slice(text.worker.rank * text.batch_size, (text.worker.rank + 1) * text.batch_size)
        self._rows = np.arange(text.rows)[self._mine]
        self._at_a_time, self._text_share = batches.config.teachers_at_a_time, batches.config.text_share
        self._vocabulary = np.arange(self._teachers.vocabulary)
        # Of each row's passage: where in the text it begins, how many characters are the text's, and how many there are by now.
        self._starts = self._nums_read = self._ages = np.zeros_like(self._rows)
        self._characters = np.zeros(len(self._rows), np.int32)  # the next inputs
        self._teaches = np.ones((len(self._teachers), len(self._rows)), np.bool_)

    def write(self, batch: int) -> WrittenBatch:
        # Each worker draws for all rows and takes its own, so that they do not depend on the number of workers.
        draws = np.random.Generator(np.random.Philox(key=self._key, counter=[0, 0, 0, batch]))
        starts = draws.integers(len(self._text.ids), size=self._text.rows)[self._mine]
        orders = draws.random((len(self._teaches), self._text.rows))[:, self._mine].argsort(0).argsort(0)
        uniforms = draws.random((self._text.seq_length, self._text.rows), np.float32)[:, self._mine]
        age = (self._rows + batch) % self._passage
        fresh = (age == 0) | (batch == 0)
        # The first passages of an epoch are shorter, and so are the last ones.
        characters = np.minimum(self._passage - age, self._num_batches - batch) * self._text.seq_length
        self._nums_read = np.where(fresh, (self._text_share * characters).astype(int), self._nums_read)
        self._starts, self._ages = np.where(fresh, starts, self._starts), np.where(fresh, 0, self._ages)
        self._characters = np.where(fresh, self._text.ids[starts], self._characters).astype(np.int32)
        self._teaches = np.where(fresh, orders < self._at_a_time, self._teaches)
        steps = [self._step(row, fresh if step == 0 else np.zeros_like(fresh)) for step, row in enumerate(uniforms)]
        inputs, targets = zip(*steps, strict=True)
        return WrittenBatch(np.stack(inputs, 1), np.stack(targets, 1), fresh)

    def _step(self, uniforms: Floats, fresh: NDArray[np.bool_]) -> tuple[NDArray[np.int32], Floats]:
        """Reads `_characters` and replaces them by the next ones. Returns (the characters read, the next ones' probabilities)."""
        characters = self._characters
        probabilities = self._teachers.predict(characters, fresh, self._teaches)
        self._ages = self._ages + 1
        read, following = self._ages <= self._nums_read, self._text.ids[(self._starts + self._ages) % len(self._text.ids)]
        self._characters = np.where(read, following, draw(probabilities, uniforms)).astype(np.int32)
        probabilities[read] = self._characters[read, None] == self._vocabulary
        return characters, probabilities
