"""The pattern of a number under its schema."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, lcm

from service.generation.constraints.document import Json, at
from service.generation.constraints.flat import Flat
from service.generation.constraints.pattern import Parser, UnsupportedConstraint
from service.generation.constraints.tree import Characters, Node, alternation, concatenation, literal, repetition
from service.generation.constraints.validity import is_multiple
from service.generation.constraints.values import json_text

LIMITS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
USUAL = 999  # the largest number where nothing asks for a larger one
FAR = 2**31 - 1  # a bound as far as this only says how large a machine's integers are
MOST_DIGITS = 15  # those that a float keeps
MAX_TRIED, MAX_WRITTEN = 1000, 60  # multiples of a step
DECIMAL = Parser(r"(?:0|[1-9][0-9]{0,2})(?:\.[0-9]{1,2})?").parse()

MINUS, POINT = literal("-"), literal(".")

Valid = Callable[[Json, Json, str], bool]


def number_pattern(flat: Flat, whole: bool, valid: Valid, where: str) -> Node:
    """The pattern. `whole`: integers only. `valid`: whether a number is valid under a schema. Raises UnsupportedConstraint."""
    limits = {name: flat.limits[name] for name in LIMITS if name in flat.limits}
    if flat.multiples or flat.excluded:
        return chosen(flat, whole, valid, where)
    if not whole and not limits:
        return DECIMAL
    low, high = usual_bounds(limits)
    for places in range(1 if whole else MOST_DIGITS):  # two decimal places, or more if the range needs them
        step = Fraction(1, 10**places)
        first = floor(low / step) + 1 if low == limits.get("exclusiveMinimum") else ceil(low / step)
        last = ceil(high / step) - 1 if high == limits.get("exclusiveMaximum") else floor(high / step)
        digits = len(str(max(abs(first), abs(last))))
        enough = whole or places >= 2 or digits + 2 > MOST_DIGITS
        if (enough and first <= last) or (first == last and low == high):
            return number_range(first * step, last * step, places)
    raise not_found(flat, whole, where)


def not_found(flat: Flat, whole: bool, where: str) -> UnsupportedConstraint:
    """The error where no number is found, with what the schema asks for."""
    asked = [f"{name} {plain(flat.limits[name])}" for name in LIMITS if name in flat.limits]
    asked += [f"multipleOf {plain(step)}" for step in flat.multiples] + ["not"] * bool(flat.excluded)
    return UnsupportedConstraint(f"{at(where)}no {'integer' if whole else 'number'} is found with {' and '.join(asked)}")


def usual_bounds(limits: Mapping[str, Fraction], step: Fraction = Fraction(1)) -> tuple[Fraction, Fraction]:
    """The least and the largest number. Where there is no bound, or one far away, the usual numbers are preferred.

    `step`: the least difference of two numbers, of which the usual ones are to hold some.
    """
    usual = max(Fraction(USUAL), 20 * step)
    lows = [limits[name] for name in ("minimum", "exclusiveMinimum") if name in limits]
    highs = [limits[name] for name in ("maximum", "exclusiveMaximum") if name in limits]
    low, high = max(lows, default=None), min(highs, default=None)
    if low is None or high is None or low < high:
        low, high = inward(low, 1), inward(high, -1)
    if low is not None and low <= -FAR and (high is None or high > 0):
        low = Fraction(0)
    if high is not None and high >= FAR and (low is None or low <= usual) and high > 2 * usual:
        high = None
    if low is None:
        low = Fraction(0) if high is None or high > 0 else high - usual
    if high is None:
        high = max(usual, low + usual)
    return low, high


def inward(bound: Fraction | None, direction: int) -> Fraction | None:
    """The bound, moved past the numbers that a float does not tell from it where it is large, to a number of few digits."""
    if bound is None or abs(bound) < 2**53:
        return bound
    unit = 10 ** (len(str(int(abs(bound)))) - MOST_DIGITS)
    return Fraction(direction * unit * (ceil(direction * bound / unit) + 1))


def chosen(flat: Flat, whole: bool, valid: Valid, where: str) -> Node:
    """Some numbers, one by one: the multiples nearest to the least bound, without those that are valid under another schema."""
    steps = [*flat.multiples, *([Fraction(1)] if whole else [])] or [Fraction(1, 2)]
    step = common_multiple(steps)
    low, high = usual_bounds(flat.limits, step)
    found = []
    for number in multiples(low, high, step):
        value = int(number) if number.denominator == 1 else float(number)
        excluded = number == flat.limits.get("exclusiveMinimum") or number == flat.limits.get("exclusiveMaximum")
        fits = all(is_multiple(value, plain(step)) for step in flat.multiples)
        if fits and not excluded and not any(valid(value, schema, where) for schema in flat.excluded):
            found.append(value)
        if len(found) == MAX_WRITTEN:
            break
    if not found:
        raise not_found(flat, whole, where)
    return alternation(literal(json_text(value)) for value in found)


def common_multiple(steps: list[Fraction]) -> Fraction:
    """The least number that is a multiple of all steps."""
    denominator = lcm(*(step.denominator for step in steps))
    return Fraction(lcm(*(int(step * denominator) for step in steps)), denominator)


def multiples(low: Fraction, high: Fraction, step: Fraction) -> Iterator[Fraction]:
    """Multiples of the step within the bounds, at most MAX_TRIED."""
    first = ceil(low / step)
    for i in range(first, min(floor(high / step), first + MAX_TRIED) + 1):
        yield i * step


def plain(step: Fraction) -> float:
    return int(step) if step.denominator == 1 else float(step)


@lru_cache(maxsize=1024)
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
