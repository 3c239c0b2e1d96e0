"""Characters <-> ids. Does not know files, networks or TensorFlow."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


def code_points(text: str) -> NDArray[np.uint32]:
    """The Unicode code points of `text`, shape [len(text)]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


class UnknownCharacters(ValueError):
    """A text has characters that are not in the vocabulary.

    `places` lists each as (position in the text, character), ordered by position.
    """

    def __init__(self, places: Sequence[tuple[int, str]]) -> None:
        self.places = list(places)
        positions: dict[str, list[str]] = {}
        for position, character in self.places:
            positions.setdefault(character, []).append(str(position))
        named = "; ".join(f"{character!r} at position {', '.join(found)}" for character, found in positions.items())
        super().__init__(f"not in the model's vocabulary: {named}")


class Vocabulary:
    """The characters that a model knows. A character's id is its index.

    Example:
        >>> Vocabulary("ehlo").encode("hole")
        array([1, 3, 2, 0], dtype=int32)
    """

    def __init__(self, characters: Sequence[str]) -> None:
        """Raises ValueError unless `characters` are distinct single characters, at least one."""
        for character in characters:
            if len(character) != 1:
                raise ValueError(f"a vocabulary holds single characters, not {character!r}")
        if not characters or len(set(characters)) != len(characters):
            raise ValueError("a vocabulary holds at least one character, each once")
        self.characters = list(characters)
        points = code_points("".join(characters))
        if ((points >= 0xD800) & (points <= 0xDFFF)).any():
            raise ValueError("a vocabulary holds characters, not halves of surrogate pairs")
        # An entry per code point up to the highest known one. The last entry, -1, is for all code points above that.
        self._ids = np.full(int(points.max()) + 2, -1, np.int32)
        self._ids[points] = np.arange(len(points), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._ids.nbytes

    def look_up(self, text: str) -> NDArray[np.int32]:
        """The ids of `text`, shape [len(text)]. Unknown characters have the id -1."""
        ids: NDArray[np.int32] = self._ids[np.minimum(code_points(text), len(self._ids) - 1)]
        return ids

    def encode(self, text: str) -> NDArray[np.int32]:
        """The ids of `text`, shape [len(text)]. Raises UnknownCharacters with all their positions."""
        ids = self.look_up(text)
        unknown = np.flatnonzero(ids < 0)
        if len(unknown):
            raise UnknownCharacters([(int(position), text[position]) for position in unknown])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, each in [0, len(self))."""
        return "".join([self.characters[i] for i in ids])
