"""Patterns of numbers between two bounds."""

from collections.abc import Iterator
from fractions import Fraction
from math import ceil, floor

from service.generation.constraints.tree import Characters, Node, alternation, concatenation, literal, repetition

MINUS, POINT = literal("-"), literal(".")


def integer_range(low: int, high: int) -> Node:
    """Exactly the integers from `low` to `high`, without leading zeros and without -0."""
    return number_range(Fraction(low), Fraction(high), 0)


def number_range(low: Fraction, high: Fraction, places: int) -> Node:
    """Exactly the numbers from `low` to `high` with at most so many decimal places, of which both bounds have no more."""
    options = list(positive_options(max(Fraction(0), low), high, places))
    if low < 0:
        step = Fraction(1, 10**places)
        options.append(concatenation([MINUS, alternation(positive_options(max(step, -high), -low, places))]))
    return alternation(options)


def positive_options(low: Fraction, high: Fraction, places: int) -> Iterator[Node]:
    """Options that match the numbers from `low` to `high`: those with a whole part between them, then those at the two ends."""
    first, last = ceil(low), floor(high)
    if not places:
        yield from natural_options(first, last, 0)
        return
    if first < last:
        fraction = repetition(concatenation([POINT, repetition(digit(0, 9), 1, places)]), 0, 1)
        yield concatenation([alternation(natural_options(first, last - 1, 0)), fraction])
    ends = [(low, min(high, first - Fraction(1, 10**places)))] if low < first else []
    ends += [(Fraction(last), high)] if low <= last else []
    for start, stop in ends:
        for used in range(places + 1):
            yield from natural_options(ceil(start * 10**used), floor(stop * 10**used), used)


def natural_options(low: int, high: int, places: int) -> Iterator[Node]:
    """Options that match the naturals from `low` to `high`, with a point before the last `places` digits."""
    if not places and low <= 1 and high >= 9 and not str(high).strip("9"):
        yield from [literal("0")] * (low == 0)
        yield concatenation([digit(1, 9), repetition(digit(0, 9), 0, len(str(high)) - 1)])
        return
    least = low
    while least <= high:  # one number of digits after another
        width = max(len(str(least)), places + 1)
        most = min(high, 10**width - 1)
        point = [POINT] if places else []
        for digits in digit_options(str(least).zfill(width), str(most).zfill(width)):
            yield concatenation([*digits[: width - places], *point, *digits[width - places :]])
        least = most + 1


def digit_options(low: str, high: str) -> Iterator[list[Node]]:
    """Options of one set of digits per place, that together match the strings of digits from `low` to `high`, of one length."""
    if not low:
        yield []
        return
    first, last = int(low[0]), int(high[0])
    if first == last:
        yield from ([digit(first, first), *rest] for rest in digit_options(low[1:], high[1:]))
        return
    nines, zeros = "9" * (len(low) - 1), "0" * (len(low) - 1)
    if low[1:] != zeros:
        yield from ([digit(first, first), *rest] for rest in digit_options(low[1:], nines))
        first += 1
    if high[1:] != nines:
        yield from ([digit(last, last), *rest] for rest in digit_options(zeros, high[1:]))
        last -= 1
    if first <= last:
        yield [digit(first, last)] + [digit(0, 9)] * len(nines)


def digit(first: int, last: int) -> Node:
    return Characters(((48 + first, 48 + last),))
