"""Text files -> ids on disk -> batches of training examples.

The files are read twice, block by block, and the ids are a memory-mapped array, so memory stays flat however long the text
is. Knows nothing of networks.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.text_files import CorpusError as CorpusError
from trainer.text_files import Newlines, read_blocks
from trainer.vocabulary import UnknownCharacters, Vocabulary, code_points

if TYPE_CHECKING:
    import tensorflow as tf

SHAKESPEARE = Path(__file__).parent / "data" / "shakespeare.txt"
SHUFFLE_BUFFER = 10_000
BLOCK = 1 << 20  # bytes read at a time
CODE_POINTS = 0x110000
MOST_NAMED = 10  # unknown characters in an error

OnUnknown = Literal["error", "skip", "replace"]


@dataclass(frozen=True)
class Corpus:
    """An encoded text: `ids` [characters] of the smallest unsigned type that holds the vocabulary.

    sha256: of the files' bytes as they are, one after the other. converted: line ends that were CRLF or CR and are LF now.
    """

    vocabulary: Vocabulary
    ids: NDArray[np.unsignedinteger]
    sha256: str
    converted: int = 0


@dataclass(frozen=True)
class Encoded:
    """A text in a given vocabulary. unknown: characters that were skipped or replaced. converted: see `Corpus`."""

    ids: NDArray[np.unsignedinteger]
    sha256: str
    unknown: int
    converted: int


def read(paths: Sequence[Path], folder: Path, newlines: Newlines = "universal", known: Sequence[str] = ()) -> Corpus:
    """Reads the UTF-8 files `paths` as one text. Its ids occupy a file in `folder` for as long as they are used.

    newlines: see `read_blocks`. known: characters that the vocabulary has besides the text's.
    Raises CorpusError for a file that can't be read, is not UTF-8 (naming the byte), or when all are empty.
    """
    named = ", ".join(map(str, paths))
    changed = CorpusError(f"{named}: changed while being read")
    seen, digest = np.zeros(CODE_POINTS, bool), hashlib.sha256()
    for block in read_blocks(paths, newlines, BLOCK):
        digest.update(block.data)
        seen[code_points(block.text)] = True
    if not seen.any():
        raise CorpusError(f"{named}: no text in it")
    seen[code_points("".join(known))] = True
    vocabulary = Vocabulary([chr(point) for point in np.flatnonzero(seen)])
    try:
        encoded = _encode(paths, vocabulary, folder, newlines, "error")
    except UnknownCharacters:
        raise changed from None
    if encoded.sha256 != digest.hexdigest():
        raise changed
    return Corpus(vocabulary, encoded.ids, encoded.sha256, encoded.converted)


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


def encode(
    path: Path, vocabulary: Vocabulary, folder: Path, newlines: Newlines = "universal", on_unknown: OnUnknown = "error"
) -> Encoded:
    """Encodes a UTF-8 file in a given vocabulary. The ids occupy a file in `folder` for as long as they are used.

    newlines: see `read_blocks`. on_unknown: what to do with characters that the vocabulary lacks: `skip` leaves them out,
    `replace` reads a space for each. Raises CorpusError for a file that can't be read, is not UTF-8, holds unknown
    characters that are an error, or no known ones.
    """
    try:
        return _encode([path], vocabulary, folder, newlines, on_unknown)
    except UnknownCharacters as error:
        if on_unknown == "replace":
            raise CorpusError(
                f"{path}: --on-unknown replace needs a space in the model's vocabulary, which has none; skip leaves them out"
            ) from error
        named, more = UnknownCharacters(error.places[:MOST_NAMED]), len(error.places) > MOST_NAMED
        raise CorpusError(
            f"{path}: {named}{' and more' if more else ''}; --on-unknown skip leaves them out, replace reads spaces instead"
        ) from error


def _encode(paths: Sequence[Path], vocabulary: Vocabulary, folder: Path, newlines: Newlines, on_unknown: OnUnknown) -> Encoded:
    """Raises UnknownCharacters when `on_unknown` can't be done: at the end, or once more than MOST_NAMED were met."""
    dtype, path = np.min_scalar_type(len(vocabulary) - 1), folder / "ids"
    to_space = on_unknown == "replace" and " " in vocabulary.characters
    places: list[tuple[int, str]] = []  # of the unknown characters that are an error
    characters = written = unknown = converted = 0
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in read_blocks(paths, newlines, BLOCK):
            digest.update(block.data)
            ids = vocabulary.look_up(block.text)
            missing = np.flatnonzero(ids < 0)
            if on_unknown == "skip":
                ids = np.delete(ids, missing)
            elif to_space:
                ids[missing] = vocabulary.characters.index(" ")
            else:
                places += [(characters + int(place), block.text[place]) for place in missing[: MOST_NAMED + 1]]
            if len(places) > MOST_NAMED:
                break
            file.write(ids.astype(dtype).tobytes())
            characters, written = characters + len(block.text), written + len(ids)
            unknown, converted = unknown + len(missing), converted + block.converted
    if places:
        raise UnknownCharacters(places)
    if not written:
        what = "none of its characters is in the model's vocabulary" if characters else "no text in it"
        raise CorpusError(f"{', '.join(map(str, paths))}: {what}")
    return Encoded(_map(path, dtype, written), digest.hexdigest(), unknown, converted)


def _map(path: Path, dtype: "np.dtype[Any]", length: int) -> NDArray[np.unsignedinteger]:
    """The ids in a file, memory-mapped; the file's name is gone afterwards."""
    ids: NDArray[np.unsignedinteger] = np.memmap(path, dtype, "r", shape=(length,))
    with suppress(PermissionError):  # Windows keeps what is mapped
        path.unlink()  # the map outlives the name, and nothing stays behind, however the process ends
    return ids
