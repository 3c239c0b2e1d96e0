"""Text files -> ids on disk -> batches of training examples.

The files are read twice, block by block, and the ids are a memory-mapped array, so memory stays flat however long the text
is. Knows nothing of networks.
"""

import codecs
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trainer.vocabulary import UnknownCharacters, Vocabulary, code_points

if TYPE_CHECKING:
    import tensorflow as tf

SHAKESPEARE = Path(__file__).parent / "data" / "shakespeare.txt"
SHUFFLE_BUFFER = 10_000
BLOCK = 1 << 20  # bytes read at a time
CODE_POINTS = 0x110000
MOST_NAMED = 10  # unknown characters in an error


class CorpusError(ValueError):
    """A text can't be used; the message says what is wrong, where, and what would be right."""


@dataclass(frozen=True)
class Corpus:
    """An encoded text: `ids` [characters] of the smallest unsigned type that holds the vocabulary."""

    vocabulary: Vocabulary
    ids: NDArray[np.unsignedinteger]
    sha256: str


def read(paths: Sequence[Path], folder: Path) -> Corpus:
    """Reads the UTF-8 files `paths` as one text; its ids take the room of a file in `folder` as long as they are used.

    Raises CorpusError for a file that can't be read, is not UTF-8 (naming the byte), or when all are empty.
    """
    named = ", ".join(map(str, paths))
    changed = CorpusError(f"{named}: changed while being read")
    seen, digest = np.zeros(CODE_POINTS, bool), hashlib.sha256()
    for block, text in _read_blocks(paths):
        digest.update(block)
        seen[code_points(text)] = True
    if not seen.any():
        raise CorpusError(f"{named}: no text in it")
    vocabulary = Vocabulary([chr(point) for point in np.flatnonzero(seen)])
    try:
        ids, sha256 = _encode(paths, vocabulary, folder)
    except UnknownCharacters:
        raise changed from None
    if sha256 != digest.hexdigest():
        raise changed
    return Corpus(vocabulary, ids, sha256)


def split(ids: NDArray[Any], held_out: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """(training part, held-out part): the last `held_out` share of the text is held out."""
    at = len(ids) - round(len(ids) * held_out)
    return ids[:at], ids[at:]


@dataclass(frozen=True)
class Windows:
    """Examples as the tutorial has them: shuffled windows of the text.

    The text is cut into windows of seq_length + 1 characters: inputs are all but a window's last character, targets all
    but its first. What does not fill a window or a batch is dropped. After 'Text generation with an RNN', tensorflow.org.
    Several `workers` share a batch of `workers * batch_size` rows.
    """

    ids: NDArray[np.unsignedinteger]
    seq_length: int
    batch_size: int
    seed: int
    workers: int = 1
    worker: int = 0

    @property
    def count(self) -> int:
        return len(self.ids) // (self.seq_length + 1)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.count // (self.workers * self.batch_size)

    def epoch(self, number: int, start: int = 0) -> "tf.data.Dataset":
        """The epoch's batches from `start` on, (inputs, targets), each int32 [batch_size, seq_length]."""
        import tensorflow as tf

        # Each epoch has its own seed, so that a run can begin at any batch of any of them.
        rows = tf.data.Dataset.range(self.count).shuffle(SHUFFLE_BUFFER, seed=self.seed + number)
        return _batches(rows.batch(self.workers * self.batch_size, drop_remainder=True).skip(start), self._windows)

    def _windows(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        width, mine = self.seq_length + 1, rows[self.worker * self.batch_size :][: self.batch_size]
        windows: NDArray[np.int32] = self.ids[: self.count * width].reshape(self.count, width)[mine].astype(np.int32)
        return windows


@dataclass(frozen=True)
class Streams:
    """Examples that follow each other: each row of a batch goes on where the same row of the batch before ended.

    The text is cut into as many equal streams as a batch has rows. Each epoch cuts anew, at a place drawn from the seed:
    what lies before it is read after the text's end. Several `workers` share the `workers * batch_size` streams.
    """

    ids: NDArray[np.unsignedinteger]
    seq_length: int
    batch_size: int
    seed: int
    workers: int = 1
    worker: int = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return (len(self.ids) - 1) // (self.workers * self.batch_size * self.seq_length)

    def epoch(self, number: int, start: int = 0) -> "tf.data.Dataset":
        """The epoch's batches from `start` on, (inputs, targets), each int32 [batch_size, seq_length]."""
        import tensorflow as tf

        draw = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        first = int(draw.integers(len(self.ids))) + self.worker * self.batch_size * len(self) * self.seq_length

        def rows(batch: NDArray[np.int64]) -> NDArray[np.int32]:
            begins = first + (np.arange(self.batch_size) * len(self) + batch) * self.seq_length
            places = begins[:, None] + np.arange(self.seq_length + 1)
            read: NDArray[np.int32] = self.ids[places % len(self.ids)].astype(np.int32)
            return read

        return _batches(tf.data.Dataset.range(start, len(self)), rows)


def check_length(characters: int, rows: int, seq_length: int) -> None:
    """Raises CorpusError when the training part does not fill one batch of `rows`."""
    needed = rows * (seq_length + 1)
    if characters < needed:
        raise CorpusError(
            f"there are {characters:,} characters to train on, {needed - characters:,} short of one batch: {rows} rows of "
            f"{seq_length + 1} characters are {needed:,}; give more text, or a smaller --batch-size, --seq-length or --held-out"
        )


def _batches(keys: "tf.data.Dataset", rows: "Callable[[NDArray[np.int64]], NDArray[np.int32]]") -> "tf.data.Dataset":
    """(inputs, targets) of the rows that `rows` gives for each key; a thread of their own reads ahead."""
    import tensorflow as tf

    def split_rows(key: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        characters = tf.ensure_shape(tf.numpy_function(rows, [key], tf.int32), (None, None))
        return characters[:, :-1], characters[:, 1:]

    return keys.map(split_rows).prefetch(2)


def encode(path: Path, vocabulary: Vocabulary, folder: Path) -> NDArray[np.unsignedinteger]:
    """The ids of a UTF-8 file in a given vocabulary; they take the room of a file in `folder` as long as they are used.

    Raises CorpusError for a file that can't be read, is not UTF-8, or holds characters that the vocabulary lacks.
    """
    try:
        ids, _ = _encode([path], vocabulary, folder)
    except UnknownCharacters as error:
        named, more = UnknownCharacters(error.places[:MOST_NAMED]), len(error.places) > MOST_NAMED
        raise CorpusError(f"{path}: {named}{' and more' if more else ''}") from error
    return ids


def _encode(paths: Sequence[Path], vocabulary: Vocabulary, folder: Path) -> tuple[NDArray[np.unsignedinteger], str]:
    """(the ids of a text, of the smallest type that holds the vocabulary; its SHA-256).

    Raises UnknownCharacters once more than MOST_NAMED have been met, or at the end; CorpusError.
    """
    dtype, path = np.min_scalar_type(len(vocabulary) - 1), folder / "ids"
    unknown: list[tuple[int, str]] = []
    characters, digest = 0, hashlib.sha256()
    with path.open("wb") as file:
        for block, text in _read_blocks(paths):
            digest.update(block)
            try:
                file.write(vocabulary.encode(text).astype(dtype).tobytes())
            except UnknownCharacters as error:
                unknown += [(characters + place, character) for place, character in error.places]
            characters += len(text)
            if len(unknown) > MOST_NAMED:
                break
    if unknown:
        raise UnknownCharacters(unknown)
    if not characters:
        raise CorpusError(f"{', '.join(map(str, paths))}: no text in it")
    ids = np.memmap(path, dtype, "r", shape=(characters,))
    with suppress(PermissionError):  # Windows keeps what is mapped
        path.unlink()  # the map outlives the name, and nothing stays behind, however the process ends
    return ids, digest.hexdigest()


def _read_blocks(paths: Sequence[Path]) -> Iterator[tuple[bytes, str]]:
    """Each file's bytes and the text that has become complete with them, a block at a time."""
    for path in paths:
        try:
            if path.is_dir():
                raise CorpusError(f"{path}: is a directory")
            if path.exists() and not path.is_file():
                raise CorpusError(f"{path}: is not a regular file: the text is read twice, so save it to a file first")
            with path.open("rb") as file:
                yield from _decode_blocks(path, file)
        except OSError as error:
            raise CorpusError(f"{path}: {error.strerror or error}") from error


def _decode_blocks(path: Path, file: BinaryIO) -> Iterator[tuple[bytes, str]]:
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
