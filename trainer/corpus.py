"""Text files -> ids on disk -> batches of training examples.

The files are read twice in blocks and the ids lie in a memory-mapped array, so memory stays flat
however long the text is. Knows nothing of networks.
"""

import codecs
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trainer.vocabulary import Vocabulary, code_points

if TYPE_CHECKING:
    import tensorflow as tf

SHAKESPEARE = Path(__file__).parent / "data" / "shakespeare.txt"
SHUFFLE_BUFFER = 10_000
BLOCK = 1 << 20  # bytes read at a time
CODE_POINTS = 0x110000


class CorpusError(ValueError):
    """A text can't be trained on; the message says what is wrong, where, and what would be right."""


@dataclass(frozen=True)
class Corpus:
    """An encoded text: `ids` [characters] of the smallest unsigned type that holds the vocabulary."""

    vocabulary: Vocabulary
    ids: NDArray[np.unsignedinteger]
    sha256: str


def read(paths: Sequence[Path], folder: Path) -> Corpus:
    """Encodes the UTF-8 files `paths`, taken as one text, into `folder`/ids.

    Raises CorpusError for a file that can't be read, is not UTF-8 (naming the byte), or when all are empty.
    """
    seen = np.zeros(CODE_POINTS, bool)
    characters, digest = 0, hashlib.sha256()
    for block, text in _blocks(paths):
        digest.update(block)
        points = code_points(text)
        seen[points] = True
        characters += len(points)
    if not characters:
        raise CorpusError(f"{', '.join(map(str, paths))}: no text in it")

    known = np.flatnonzero(seen)
    dtype = np.min_scalar_type(len(known) - 1)
    id_of = np.zeros(CODE_POINTS, dtype)
    id_of[known] = np.arange(len(known), dtype=dtype)
    path, again = folder / "ids", hashlib.sha256()
    with path.open("wb") as file:
        for block, text in _blocks(paths):
            again.update(block)
            file.write(id_of[code_points(text)].tobytes())
    if again.digest() != digest.digest():
        raise CorpusError(f"{', '.join(map(str, paths))}: changed while being read")
    ids = np.memmap(path, dtype, "r", shape=(characters,))
    return Corpus(Vocabulary([chr(point) for point in known]), ids, digest.hexdigest())


def examples(characters: int, seq_length: int) -> int:
    """How many windows of `seq_length` inputs and their targets a text of `characters` is cut into."""
    return characters // (seq_length + 1)


def check_length(characters: int, seq_length: int, batch_size: int) -> None:
    """Raises CorpusError when the text does not fill one batch."""
    needed = batch_size * (seq_length + 1)
    if characters < needed:
        raise CorpusError(
            f"the text has {characters:,} characters, {needed - characters:,} short of one batch: {batch_size} examples of "
            f"{seq_length + 1} characters are {needed:,}; give more text, or a smaller --batch-size or --seq-length"
        )


def batches(ids: NDArray[np.unsignedinteger], *, seq_length: int, batch_size: int, seed: int) -> "tf.data.Dataset":
    """One epoch of shuffled (inputs, targets), each int32 [batch_size, seq_length]; iterated again, shuffled anew.

    The text is cut into windows of seq_length + 1 characters: inputs are all but a window's last character, targets all
    but its first. What does not fill a window or a batch is dropped. After 'Text generation with an RNN', tensorflow.org.
    """
    import tensorflow as tf

    count = examples(len(ids), seq_length)
    windows = ids[: count * (seq_length + 1)].reshape(count, seq_length + 1)

    def gather(rows: NDArray[np.int64]) -> NDArray[np.int32]:
        return windows[rows].astype(np.int32)

    def split(rows: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        chosen = tf.ensure_shape(tf.numpy_function(gather, [rows], tf.int32), (batch_size, seq_length + 1))
        return chosen[:, :-1], chosen[:, 1:]

    rows = tf.data.Dataset.range(count).shuffle(SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=True)
    return rows.batch(batch_size, drop_remainder=True).map(split).prefetch(tf.data.AUTOTUNE)


def _blocks(paths: Sequence[Path]) -> Iterator[tuple[bytes, str]]:
    """Each file's bytes and the text that has become complete with them, a block at a time."""
    for path in paths:
        try:
            if path.exists() and not path.is_file():
                raise CorpusError(f"{path}: not a file; it is read twice, so save what it gives as one")
            with path.open("rb") as file:
                yield from _decoded(path, file)
        except OSError as error:
            raise CorpusError(f"{path}: {error.strerror or error}") from error


def _decoded(path: Path, file: BinaryIO) -> Iterator[tuple[bytes, str]]:
    rest, offset = b"", 0  # bytes of a character that a block's end cut, and where they start in the file
    while block := file.read(BLOCK):
        text, used = _decode(path, rest + block, offset, final=False)
        rest, offset = (rest + block)[used:], offset + used
        yield block, text
    _decode(path, rest, offset, final=True)


def _decode(path: Path, data: bytes, offset: int, *, final: bool) -> tuple[str, int]:
    try:
        return codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start} ({error.reason}); save it as UTF-8"
        ) from error
