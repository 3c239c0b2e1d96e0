"""UTF-8 files -> their text in blocks, without byte-order marks and with LF line endings. Does not know vocabularies or ids."""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import IncrementalNewlineDecoder
from pathlib import Path
from typing import BinaryIO, Literal

from trainer.errors import CorpusError

Newlines = Literal["universal", "keep"]

# UTF-32 comes first: its little-endian mark begins with UTF-16's.
OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True)
class Block:
    """Some bytes of a file, and the text that they complete."""

    data: bytes
    text: str
    converted: int = 0  # line endings in `text` that were CRLF or CR


def read_blocks(paths: Sequence[Path], newlines: Newlines, size: int) -> Iterator[Block]:
    """Reads the files in blocks of about `size` bytes. A byte-order mark at the start of a file is dropped.

    newlines: `universal` converts CRLF and CR to LF. A CR at a file's end and an LF at the next file's start are two line endings.
    Raises CorpusError for a file that can't be read or is not UTF-8.
    """
    for path in paths:
        try:
            if path.is_dir():
                raise CorpusError(f"{path}: is a directory")
            if path.exists() and not path.is_file():
                raise CorpusError(f"{path}: is not a regular file; the text is read twice, so save it to a file first")
            with path.open("rb") as file:
                yield from _decode_blocks(path, file, newlines, size)
        except OSError as error:
            raise CorpusError(f"{path}: {error.strerror or error}") from error


def describe_converted(count: int) -> str:
    """The log message about converted line endings."""
    return f"converted {count:,} line endings from CRLF or CR to LF; --newlines keep keeps them"


def _decode_blocks(path: Path, file: BinaryIO, newlines: Newlines, size: int) -> Iterator[Block]:
    mark = _read_mark(path, file)
    yield Block(mark, "")
    utf8, convert = codecs.getincrementaldecoder("utf-8")(), newlines == "universal"
    line_endings, offset, data = IncrementalNewlineDecoder(None, convert), len(mark), b" "
    while data:
        data = file.read(size)
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
