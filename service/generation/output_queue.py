"""A generation's characters on their way to the client. Belongs to the event loop, and knows no engine."""

import asyncio
from array import array
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from service.generation.backend import LogProbabilities

FinishReason = Literal["length", "stop", "time", "cancelled", "error"]


class Chunk(NamedTuple):
    """Consecutive characters of a text, with their log-probabilities [characters] if they were requested."""

    characters: Sequence[int]
    log_probabilities: LogProbabilities | None = None


class OutputQueue:
    """What was generated and has not been read yet. `num_generate` bounds it."""

    def __init__(self) -> None:
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self._characters = array("i")
        self._log_probabilities: list[LogProbabilities] = []
        self._arrived = asyncio.Event()

    def put(self, chunk: Chunk, reason: FinishReason | None = None, error: Exception | None = None) -> None:
        """Appends characters; `reason` closes the queue. Does nothing to a closed queue."""
        if self.finish_reason is not None:
            return
        self._characters.extend(chunk.characters)
        if chunk.log_probabilities is not None:
            self._log_probabilities.append(chunk.log_probabilities)
        self.finish_reason, self.error = reason, error
        if self._characters or reason:
            self._arrived.set()

    def wake(self) -> None:
        """Makes a waiting `get` return without characters."""
        self._arrived.set()

    async def get(self) -> Chunk:
        """Waits for characters and returns all there are: none at the end, or when woken.

        Raises the error that ended the generation, after the characters before it have been read.
        """
        await self._arrived.wait()
        characters, self._characters = self._characters, array("i")
        found, self._log_probabilities = self._log_probabilities, []
        if self.finish_reason is None:
            self._arrived.clear()
        elif not characters and self.error is not None:
            raise self.error
        return Chunk(characters, concatenated(found) if found else None)


def joined(a: Chunk, b: Chunk) -> Chunk:
    """The characters of both, and the log-probabilities if both have them."""
    if not a.characters:
        return b
    if not b.characters:
        return a
    if a.log_probabilities is None or b.log_probabilities is None:
        return Chunk([*a.characters, *b.characters])
    return Chunk([*a.characters, *b.characters], concatenated([a.log_probabilities, b.log_probabilities]))


def cut(chunk: Chunk, start: int, end: int) -> Chunk:
    """The characters from `start` up to `end`, which is not included."""
    if end - start == len(chunk.characters):
        return chunk
    p = chunk.log_probabilities
    part = p and LogProbabilities(p.chosen[start:end], p.top_ids[start:end], p.top_values[start:end])
    return Chunk(chunk.characters[start:end], part)


def concatenated(parts: Sequence[LogProbabilities]) -> LogProbabilities:
    """Joins log-probabilities of consecutive characters, [n, ...] each, into one: [sum of n, ...]."""
    return LogProbabilities(*map(np.concatenate, zip(*parts, strict=True)))
