"""UTF-8 files -> their text, block by block, without byte-order marks and with one kind of line end.

Knows nothing of vocabularies or ids.
"""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

Newlines = Literal["universal", "keep"]

BYTE_ORDER_MARK = "\ufeff"
# UTF-32's first: in little-endian order it begins with UTF-16's.
OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class CorpusError(ValueError):
    """A text can't be used; the message says what is wrong, where, and what would be right."""


@dataclass(frozen=True)
class Block:
    """Some bytes of a file, and the text that they complete."""

    data: bytes
    text: str
    converted: int = 0  # line ends in `text` that were CRLF or CR


def read_blocks(paths: Sequence[Path], newlines: Newlines, size: int) -> Iterator[Block]:
    """The files' text in blocks of about `size` bytes. A byte-order mark at the start of a file is left out.

    newlines: `universal` turns CRLF and CR into LF. A line end does not span two files.
    Raises CorpusError for a file that can't be read or is not UTF-8.
    """
    for path in paths:
        try:
            if path.is_dir():
                raise CorpusError(f"{path}: is a directory")
            if path.exists() and not path.is_file():
                raise CorpusError(f"{path}: is not a regular file: the text is read twice, so save it to a file first")
            with path.open("rb") as file:
                _check_encoding(path, file)
                blocks = _drop_mark(_decode_blocks(path, file, size))
                yield from _convert_newlines(blocks) if newlines == "universal" else blocks
        except OSError as error:
            raise CorpusError(f"{path}: {error.strerror or error}") from error


def describe_converted(count: int) -> str:
    """What to say when line ends were converted."""
    return f"{count:,} line ends were CRLF or CR and are read as LF; --newlines keep leaves them"


def _check_encoding(path: Path, file: BinaryIO) -> None:
    head = file.read(4)
    file.seek(0)
    for mark, encoding in OTHER_ENCODINGS.items():
        if head.startswith(mark):
            raise CorpusError(f"{path}: is {encoding}, as its byte-order mark says; save it as UTF-8")


def _decode_blocks(path: Path, file: BinaryIO, size: int) -> Iterator[Block]:
    rest, offset = b"", 0  # bytes of a character that a block's end cut, and where they start in the file
    while data := file.read(size):
        text, used = _decode(path, rest + data, offset, final=False)
        rest, offset = (rest + data)[used:], offset + used
        yield Block(data, text)
    _decode(path, rest, offset, final=True)


def _decode(path: Path, data: bytes, offset: int, *, final: bool) -> tuple[str, int]:
    try:
        return codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start} ({error.reason}); save it as UTF-8"
        ) from error


def _drop_mark(blocks: Iterator[Block]) -> Iterator[Block]:
    at_start = True
    for block in blocks:
        yield Block(block.data, block.text.removeprefix(BYTE_ORDER_MARK)) if at_start else block
        at_start = at_start and not block.text  # small blocks may hold no whole character


def _convert_newlines(blocks: Iterator[Block]) -> Iterator[Block]:
    held = ""  # a CR at a block's end: the next block may begin with its LF
    for block in blocks:
        text = held + block.text
        held = "\r" if text.endswith("\r") else ""
        text = text.removesuffix("\r")
        yield Block(block.data, text.replace("\r\n", "\n").replace("\r", "\n"), text.count("\r"))
    if held:
        yield Block(b"", "\n", 1)
