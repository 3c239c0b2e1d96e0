"""UTF-8 files -> ids, without byte-order marks and with LF line endings.

The files are read twice, in blocks, into a memory-mapped array, so memory use does not grow with the text.
"""

import codecs
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import IncrementalNewlineDecoder
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.errors import CorpusError
from trainer.vocabulary import UnknownCharacters, Vocabulary, code_points

SHAKESPEARE = Path(__file__).parent / "data" / "shakespeare.txt"
BLOCK = 1 << 20  # bytes read at a time
CODE_POINTS = 0x110000
MAX_LISTED = 10  # unknown characters in an error message

# UTF-32 comes first: its little-endian mark begins with UTF-16's.
OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}

Newlines = Literal["universal", "keep"]  # universal converts CRLF and CR to LF
OnUnknown = Literal["error", "skip", "replace"]  # for characters that are not in the vocabulary; replace reads spaces instead


@dataclass(frozen=True)
class Corpus:
    """An encoded text."""

    vocabulary: Vocabulary
    ids: NDArray[np.unsignedinteger]  # [characters], of the smallest unsigned type that holds the vocabulary
    sha256: str  # of the files' bytes, concatenated
    converted: int = 0  # line endings that were CRLF or CR and are LF now
    unknown: int = 0  # characters that were skipped or replaced


def read(paths: Sequence[Path], folder: Path, newlines: Newlines = "universal", known: Sequence[str] = ()) -> Corpus:
    """Reads UTF-8 files as one text. While the ids are in use, they occupy disk space in `folder`.

    known: characters that the vocabulary must have in addition to the text's.
    Raises CorpusError for a file that can't be read or is not UTF-8, and when all files are empty.
    """
    names = ", ".join(map(str, paths))
    seen, digest = np.zeros(CODE_POINTS, bool), hashlib.sha256()
    for block in _read_blocks(paths, newlines):
        digest.update(block.data)
        seen[code_points(block.text)] = True
    if not seen.any():
        raise CorpusError(f"{names}: no text in it")
    seen[code_points("".join(known))] = True
    vocabulary = Vocabulary([chr(point) for point in np.flatnonzero(seen)])
    return encode(paths, vocabulary, folder, newlines, "skip", sha256=digest.hexdigest())


def encode(
    paths: Sequence[Path],
    vocabulary: Vocabulary,
    folder: Path,
    newlines: Newlines = "universal",
    on_unknown: OnUnknown = "error",
    sha256: str | None = None,
) -> Corpus:
    """Encodes UTF-8 files as one text, in a given vocabulary. While the ids are in use, they occupy disk space in `folder`.

    sha256: of the files' bytes, if it is known. Raises CorpusError for other bytes, and for a file that can't be read, is not
    UTF-8, has unknown characters that are an error, or has no known characters.
    """
    names, dtype, path = ", ".join(map(str, paths)), np.min_scalar_type(len(vocabulary) - 1), folder / "ids"
    with _removed_on_error(path):
        space = vocabulary.characters.index(" ") if on_unknown == "replace" and " " in vocabulary.characters else None
        errors: list[tuple[int, str]] = []  # (position, character)
        characters = written = unknown = converted = 0
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for block in _read_blocks(paths, newlines):
                digest.update(block.data)
                ids = vocabulary.look_up(block.text)
                missing = np.flatnonzero(ids < 0)
                if on_unknown == "skip":
                    ids = np.delete(ids, missing)
                elif space is not None:
                    ids[missing] = space
                else:
                    errors += [(characters + int(at), block.text[at]) for at in missing[: MAX_LISTED + 1]]
                if len(errors) > MAX_LISTED:
                    break
                file.write(ids.astype(dtype).tobytes())
                characters, written = characters + len(block.text), written + len(ids)
                unknown, converted = unknown + len(missing), converted + block.converted
        if errors and on_unknown == "replace":
            raise CorpusError(
                f"{names}: --on-unknown replace needs a space in the model's vocabulary, and there is none; use --on-unknown skip"
            )
        if errors:
            listed, more = UnknownCharacters(errors[:MAX_LISTED]), " and more" if len(errors) > MAX_LISTED else ""
            raise CorpusError(f"{names}: {listed}{more}; --on-unknown skip drops them, replace reads spaces instead")
        if sha256 not in (None, digest.hexdigest()):
            raise CorpusError(f"{names}: changed while being read")
        if not written:
            problem = "none of its characters is in the model's vocabulary" if characters else "no text in it"
            raise CorpusError(f"{names}: {problem}")
        return Corpus(vocabulary, _map(path, dtype, written), digest.hexdigest(), converted, unknown)


@contextmanager
def _removed_on_error(path: Path) -> Iterator[None]:
    """A full disk stays full otherwise."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _map(path: Path, dtype: "np.dtype[Any]", length: int) -> NDArray[np.unsignedinteger]:
    """The ids in a file, memory-mapped. The file is deleted: the mapping stays valid, and nothing is left if the process dies."""
    ids: NDArray[np.unsignedinteger] = np.memmap(path, dtype, "r", shape=(length,))
    with suppress(PermissionError):  # Windows does not delete a mapped file
        path.unlink()
    return ids


def describe_converted(count: int) -> str:
    """The log message about converted line endings."""
    return f"converted {count:,} line endings from CRLF or CR to LF; --newlines keep keeps them"


@dataclass(frozen=True)
class Block:
    """Some bytes of a file, and the text that they complete."""

    data: bytes
    text: str
    converted: int = 0  # line endings in `text` that were CRLF or CR


def _read_blocks(paths: Sequence[Path], newlines: Newlines) -> Iterator[Block]:
    """Reads the files in blocks. A byte-order mark at the start of a file is dropped.

    A CR at a file's end and an LF at the next file's start are two line endings. Raises CorpusError.
    """
    for path in paths:
        try:
            if path.is_dir():
                raise CorpusError(f"{path}: is a directory")
            if path.exists() and not path.is_file():
                raise CorpusError(f"{path}: is not a regular file; save the text to a file first")
            with path.open("rb") as file:
                yield from _decode_blocks(path, file, newlines)
        except OSError as error:
            raise CorpusError(f"{path}: {error.strerror or error}") from error


def _decode_blocks(path: Path, file: BinaryIO, newlines: Newlines) -> Iterator[Block]:
    mark = _read_mark(path, file)
    yield Block(mark, "")
    utf8, convert = codecs.getincrementaldecoder("utf-8")(), newlines == "universal"
    line_endings, offset, data = IncrementalNewlineDecoder(None, convert), len(mark), b" "
    while data:
        data = file.read(BLOCK)
        pending, _ = utf8.getstate()  # the start of a character that the end of a block cut
        try:
            text = utf8.decode(data, final=not data)
        except UnicodeDecodeError as error:
            at = offset - len(pending) + error.start
            raise CorpusError(
                f"{path}: not UTF-8: byte 0x{error.object[error.start]:02x} at offset {at} ({error.reason}); save it as UTF-8"
            ) from error
        offset += len(data)
        yield Block(data, line_endings.decode(text, final=not data) if convert else text, data.count(b"\r") if convert else 0)


def _read_mark(path: Path, file: BinaryIO) -> bytes:
    """Reads UTF-8's byte-order mark if the file has one. Raises CorpusError for another encoding's mark."""
    head = file.read(4)
    for mark, encoding in OTHER_ENCODINGS.items():
        if head.startswith(mark):
            raise CorpusError(f"{path}: has the byte-order mark of {encoding}; save it as UTF-8")
    mark = codecs.BOM_UTF8 if head.startswith(codecs.BOM_UTF8) else b""
    file.seek(len(mark))
    return mark
