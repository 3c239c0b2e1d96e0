"""Stop strings in a stream of ids."""

from collections.abc import Sequence
from functools import lru_cache


class StopStrings:
    """Looks for the first of some strings (each as ids, at least one) in what a generation adds bit by bit.

    Each string is followed by its own automaton (Knuth, Morris & Pratt 1977), so a character costs a step for each string,
    wherever it stands and however the stream is cut.
    """

    def __init__(self, strings: Sequence[Sequence[int]], ignored: int = 0) -> None:
        """A string that ends within the first `ignored` characters does not count. Raises ValueError for an empty string."""
        self._strings = [tuple(string) for string in strings]
        if not all(self._strings):
            raise ValueError("a stop string holds at least one character")
        self._borders = [borders(string) for string in self._strings]
        self._ignored = ignored
        self._matched = [0] * len(self._strings)  # length of the longest start of each that the stream ends with

    @property
    def begun(self) -> int:
        """How many characters at the end of the stream may be the beginning of a stop string."""
        return max(self._matched, default=0)

    def find(self, characters: Sequence[int]) -> tuple[int, int] | None:
        """Goes on over `characters`; where a string ends, how many of them that took, and the string's length.

        Of several that end at the same character the longest counts. Nothing more is to be looked for after that.
        """
        if not self._strings:
            return None
        for i, character in enumerate(characters):
            found = 0
            for s, (string, border) in enumerate(zip(self._strings, self._borders, strict=True)):
                matched = self._matched[s]
                while matched and string[matched] != character:
                    matched = border[matched - 1]
                matched += string[matched] == character
                if matched == len(string):
                    found = max(found, matched)
                    matched = border[-1]  # one that does not count may overlap the next
                self._matched[s] = matched
            self._ignored -= 1
            if found and self._ignored < 0:
                return i + 1, found
        return None


@lru_cache(maxsize=256)  # the continuations of a request have the same
def borders(string: tuple[int, ...]) -> list[int]:
    """For each prefix of the string, the length of its longest proper prefix that is also its suffix."""
    lengths, matched = [0] * len(string), 0
    for i in range(1, len(string)):
        while matched and string[matched] != string[i]:
            matched = lengths[matched - 1]
        matched += string[matched] == string[i]
        lengths[i] = matched
    return lengths
