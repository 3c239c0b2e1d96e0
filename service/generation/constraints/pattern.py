import re


class UnsupportedConstraint(ValueError):
    pass


def portable_pattern(r: str) -> str:
    return r


def choices_pattern(c: list[str]) -> str:
    return "(?:" + "|".join(re.escape(x) for x in c) + ")"
