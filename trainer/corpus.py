"""Text files -> ids. The files are read twice, in blocks, into a memory-mapped array, so memory use does not grow with the text."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.errors import CorpusError
from trainer.text_files import Newlines, read_blocks
from trainer.vocabulary import UnknownCharacters, Vocabulary, code_points

SHAKESPEARE = Path(__file__).parent / "data" / "shakespeare.txt"
BLOCK = 1 << 20  # bytes read at a time
CODE_POINTS = 0x110000
MAX_LISTED = 10  # unknown characters in an error message

OnUnknown = Literal["error", "skip", "replace"]


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

    newlines: see `read_blocks`. known: characters that the vocabulary must have in addition to the text's.
    Raises CorpusError for a file that can't be read or is not UTF-8, and when all files are empty.
    """
    names = ", ".join(map(str, paths))
    changed = CorpusError(f"{names}: changed while being read")
    seen, digest = np.zeros(CODE_POINTS, bool), hashlib.sha256()
    for block in read_blocks(paths, newlines, BLOCK):
        digest.update(block.data)
        seen[code_points(block.text)] = True
    if not seen.any():
        raise CorpusError(f"{names}: no text in it")
    seen[code_points("".join(known))] = True
    try:
        text = _encode(paths, Vocabulary([chr(point) for point in np.flatnonzero(seen)]), folder, newlines, "error")
    except UnknownCharacters:
        raise changed from None
    if text.sha256 != digest.hexdigest():
        raise changed
    return text


def encode(
    path: Path, vocabulary: Vocabulary, folder: Path, newlines: Newlines = "universal", on_unknown: OnUnknown = "error"
) -> Corpus:
    """Encodes a UTF-8 file in a given vocabulary. While the ids are in use, they occupy disk space in `folder`.

    newlines: see `read_blocks`. on_unknown: for characters that are not in the vocabulary. `skip` drops them, `replace` reads
    each as a space. Raises CorpusError for a file that can't be read, is not UTF-8, holds unknown characters that are an error,
    or holds no known characters.
    """
    try:
        return _encode([path], vocabulary, folder, newlines, on_unknown)
    except UnknownCharacters as error:
        if on_unknown == "replace":
            raise CorpusError(
                f"{path}: --on-unknown replace needs a space in the model's vocabulary, and there is none; use --on-unknown skip"
            ) from error
        listed, more = UnknownCharacters(error.places[:MAX_LISTED]), len(error.places) > MAX_LISTED
        raise CorpusError(
            f"{path}: {listed}{' and more' if more else ''}; --on-unknown skip drops them, replace reads spaces instead"
        ) from error


def _encode(paths: Sequence[Path], vocabulary: Vocabulary, folder: Path, newlines: Newlines, on_unknown: OnUnknown) -> Corpus:
    """Raises UnknownCharacters with all unknown characters, or stops early with more than MAX_LISTED of them."""
    dtype, path = np.min_scalar_type(len(vocabulary) - 1), folder / "ids"
    space = vocabulary.characters.index(" ") if on_unknown == "replace" and " " in vocabulary.characters else None
    errors: list[tuple[int, str]] = []  # (position, character)
    characters = written = unknown = converted = 0
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in read_blocks(paths, newlines, BLOCK):
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
    if errors:
        raise UnknownCharacters(errors)
    if not written:
        problem = "none of its characters is in the model's vocabulary" if characters else "no text in it"
        raise CorpusError(f"{', '.join(map(str, paths))}: {problem}")
    return Corpus(vocabulary, _map(path, dtype, written), digest.hexdigest(), converted, unknown)


def _map(path: Path, dtype: "np.dtype[Any]", length: int) -> NDArray[np.unsignedinteger]:
    """The ids in a file, memory-mapped. The file is deleted: the mapping stays valid, and nothing is left if the process dies."""
    ids: NDArray[np.unsignedinteger] = np.memmap(path, dtype, "r", shape=(length,))
    with suppress(PermissionError):  # Windows does not delete a mapped file
        path.unlink()
    return ids
