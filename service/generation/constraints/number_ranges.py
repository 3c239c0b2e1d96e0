"""Patterns of numbers between two bounds."""

from fractions import Fraction
from math import ceil, floor


def integer_range(low: int, high: int) -> str:
    """A pattern of exactly the integers from `low` to `high`, without leading zeros and without -0."""
    options = []
    if low < 0:
        options.append("-" + grouped(natural_options(max(1, -high), -low, 0)))
    if high >= 0:
        options += natural_options(max(0, low), high, 0)
    return grouped(options)


def number_range(low: Fraction, high: Fraction, places: int) -> str | None:
    """A pattern of exactly the numbers from `low` to `high` with at most so many decimal places. None where there are none."""
    step = Fraction(1, 10**places)
    low, high = ceil(low / step) * step, floor(high / step) * step
    if low > high:
        return None
    if not places:
        return integer_range(int(low), int(high))
    options = []
    if low < 0:
        options.append("-" + grouped(positive_options(max(step, -high), -low, places)))
    if high >= 0:
        options += positive_options(max(Fraction(0), low), high, places)
    return grouped(options)


def positive_options(low: Fraction, high: Fraction, places: int) -> list[str]:
    """Options that match the numbers from `low` to `high`: those with a whole part between them, then those at the two ends."""
    first, last = ceil(low), floor(high)
    options = []
    if first < last:
        options.append(grouped(natural_options(first, last - 1, 0)) + rf"(?:\.[0-9]{{1,{places}}})?")
    ends = [(low, min(high, first - Fraction(1, 10**places)))] if low < first else []
    ends += [(Fraction(last), high)] if low <= last else []
    for start, stop in ends:
        for used in range(places + 1):
            options += natural_options(ceil(start * 10**used), floor(stop * 10**used), used)
    return options


def natural_options(low: int, high: int, places: int) -> list[str]:
    """Options that match the naturals from `low` to `high`, with a point before the last `places` digits."""
    if not places and low <= 1 and high >= 9 and not str(high).strip("9"):
        return ["0"] * (low == 0) + [f"[1-9][0-9]{{0,{len(str(high)) - 1}}}"]
    options = []
    least = low
    while least <= high:  # one number of digits after another
        width = max(len(str(least)), places + 1)
        most = min(high, 10**width - 1)
        options += [pointed(one, places) for one in digit_options(str(least).zfill(width), str(most).zfill(width))]
        least = most + 1
    return options


def digit_options(low: str, high: str) -> list[list[str]]:
    """Options of one digit class per place, that together match the strings of digits from `low` to `high`, of one length."""
    if not low:
        return [[]]
    first, last = low[0], high[0]
    if first == last:
        return [[first, *rest] for rest in digit_options(low[1:], high[1:])]
    nines, zeros = "9" * (len(low) - 1), "0" * (len(low) - 1)
    options = []
    if low[1:] != zeros:
        options += [[first, *rest] for rest in digit_options(low[1:], nines)]
        first = str(int(first) + 1)
    upper = []
    if high[1:] != nines:
        upper = [[last, *rest] for rest in digit_options(zeros, high[1:])]
        last = str(int(last) - 1)
    if first <= last:
        options.append([digit_class(first, last)] + ["[0-9]"] * len(nines))
    return options + upper


def digit_class(first: str, last: str) -> str:
    return first if first == last else f"[{first}-{last}]"


def pointed(classes: list[str], places: int) -> str:
    """The classes as text, repeated ones counted, with a decimal point before the last `places`."""
    whole, decimals = (classes[:-places], classes[-places:]) if places else (classes, [])
    return counted(whole) + (rf"\.{counted(decimals)}" if decimals else "")


def counted(classes: list[str]) -> str:
    text = ""
    while classes:
        times = next((i for i, one in enumerate(classes) if one != classes[0]), len(classes))
        text += classes[0] if times == 1 else f"{classes[0]}{{{times}}}"
        classes = classes[times:]
    return text


def grouped(options: list[str]) -> str:
    return options[0] if len(options) == 1 else f"(?:{'|'.join(dict.fromkeys(options))})"
