"""Finds stop strings in a stream of ids."""

from collections.abc import Sequence
from functools import lru_cache


class StopStrings:
    """Finds the first of several strings in a stream that arrives in parts. Strings and stream are ids.

    An automaton per string (Knuth, Morris & Pratt 1977) tracks how much of it the stream ends with. So the cost per character is
    one step per string, and the result does not depend on how the stream is cut.
    """

    def __init__(self, strings: Sequence[Sequence[int]], ignored: int = 0) -> None:
        """Strings that end within the first `ignored` characters are skipped. Raises ValueError for an empty string."""
        self._strings = [tuple(string) for string in strings]
        if not all(self._strings):
            raise ValueError("a stop string holds at least one character")
        self._borders = [borders(string) for string in self._strings]
        self._ignored = ignored
        self._matched = [0] * len(self._strings)  # by string: length of its longest prefix that the stream ends with

    @property
    def begun(self) -> int:
        """Number of characters at the end of the stream that may be the beginning of a stop string."""
        return max(self._matched, default=0)

    def find(self, characters: Sequence[int]) -> tuple[int, int] | None:
        """Reads the next part of the stream, up to the end of the first stop string.

        Returns (characters read, length of the string), or None if no string ends in this part. If several strings end at the
        same character, the longest is returned. Do not call it again after a string was found.
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
                    matched = border[-1]  # a skipped occurrence may overlap the next one
                self._matched[s] = matched
            self._ignored -= 1
            if found and self._ignored < 0:
                return i + 1, found
        return None


@lru_cache(maxsize=256)  # all generations of a request have the same strings
def borders(string: tuple[int, ...]) -> list[int]:
    """For each prefix of the string, the length of its longest proper prefix that is also its suffix."""
    lengths, matched = [0] * len(string), 0
    for i in range(1, len(string)):
        while matched and string[matched] != string[i]:
            matched = lengths[matched - 1]
        matched += string[matched] == string[i]
        lengths[i] = matched
    return lengths
