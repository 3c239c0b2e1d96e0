"""Sets of characters as sorted ranges of code points, and their text in a regular expression."""

from collections.abc import Iterable
from functools import lru_cache

Ranges = tuple[tuple[int, int], ...]

START, END = "\U0010fffe", "\U0010ffff"  # before and after a pattern. No set holds them
LAST = ord(START) - 1
SURROGATES: Ranges = ((0xD800, 0xDFFF),)
CONTROLS: Ranges = ((0, 0x1F), (0x7F, 0x9F))
LINE_SEPARATORS: Ranges = ((0x2028, 0x2029),)
SPECIAL = set("\\.+*?()|[]{}^$#&-~")  # escaped by a backslash, in a class and outside


def normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same set as sorted ranges that neither overlap nor touch."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return tuple(merged)


def of(characters: Iterable[str]) -> Ranges:
    """The set of these characters, without START and END."""
    return normal((ord(one), ord(one)) for one in characters if ord(one) <= LAST)


def union(*sets: Ranges) -> Ranges:
    """Characters in any of the sets."""
    return normal(one for ranges in sets for one in ranges)


def complement(ranges: Ranges) -> Ranges:
    """All other code points but START and END."""
    bounds = [-1, *(bound for one in ranges for bound in one), LAST + 1]
    return tuple((left + 1, right - 1) for left, right in zip(bounds[::2], bounds[1::2], strict=True) if left + 1 < right)


def minus(ranges: Ranges, *others: Ranges) -> Ranges:
    """Characters of the first set that are in none of the others."""
    return complement(union(complement(ranges), *others))


@lru_cache(maxsize=4096)
def intersection(left: Ranges, right: Ranges) -> Ranges:
    """Characters in both sets."""
    return minus(left, complement(right))


def size(ranges: Ranges) -> int:
    """Number of code points."""
    return sum(last - first + 1 for first, last in ranges)


def escaped(code: int) -> str:
    """A code point as Rust's regex crate reads it."""
    character = chr(code)
    return "\\" + character if character in SPECIAL else character


@lru_cache(maxsize=4096)
def class_pattern(ranges: Ranges) -> str:
    """An expression of Rust's regex crate for one character of the set, which is not empty and holds no surrogates."""
    inside = "".join(escaped(first) if first == last else f"{escaped(first)}-{escaped(last)}" for first, last in ranges)
    return inside if size(ranges) == 1 else f"[{inside}]"
