"""Finds stop strings in a stream of ids."""

from collections.abc import Sequence


class StopStrings:
    """Finds the first of several strings in a stream that arrives in parts. The result does not depend on how the stream is cut."""

    def __init__(self, strings: Sequence[Sequence[int]], ignored: int = 0) -> None:
        """strings: ids of each. Ends within the first `ignored` characters do not count. Raises ValueError for an empty string."""
        self._strings = [_text(string) for string in strings]
        if not all(self._strings):
            raise ValueError("a stop string holds at least one character")
        self._longest, self._ignored = max(map(len, self._strings), default=0), ignored
        self._begun = ""  # the end of the stream, if a string may have begun there
        self._num_read = 0

    @property
    def begun(self) -> int:
        """Number of characters at the end of the stream that may be the beginning of a stop string."""
        return len(self._begun)

    def find(self, characters: Sequence[int]) -> tuple[int, int] | None:
        """Reads the next part of the stream, up to the end of the first stop string.

        Returns (characters read, length of the string), or None if no string ends in this part. If several strings end at the
        same character, the longest is returned. Do not call it again after a string was found.
        """
        text, before = self._begun + _text(characters), len(self._begun)
        first = before + max(0, self._ignored - self._num_read) + 1  # the least place at which a string may end
        places = [(text.find(string, max(0, first - len(string))), len(string)) for string in self._strings]
        ends = [(place + length, -length) for place, length in places if place >= 0]
        if ends:
            end, length = min(ends)
            return end - before, -length
        self._num_read += len(characters)
        lengths = range(min(len(text), self._longest - 1), 0, -1)
        begun = (n for n in lengths if any(n < len(string) and text.endswith(string[:n]) for string in self._strings))
        self._begun = text[len(text) - next(begun, 0) :]
        return None


def _text(ids: Sequence[int]) -> str:
    """A string with a character for each id, because Python searches in strings fast."""
    return "".join(map(chr, ids))
