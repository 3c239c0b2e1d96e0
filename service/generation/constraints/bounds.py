"""How far what has no end in a schema goes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """Additions to what the schema asks for at least."""

    characters: int  # of a string
    items: int  # of an array
    members: int  # of an object that names none
    recursion: int  # references to a schema within itself


GENEROUS = (Bounds(40, 3, 3, 2), Bounds(20, 1, 2, 2), Bounds(8, 1, 1, 1))  # the first that gives a pattern small enough is used
