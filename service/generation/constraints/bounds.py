"""How far what has no end in a schema goes."""

from dataclasses import dataclass

from service.generation.constraints.pattern import MAX_POSITIONS


@dataclass(frozen=True)
class Bounds:
    """Additions to what the schema asks for at least."""

    characters: int  # of a string
    items: int  # of an array
    members: int  # of an object that names none
    recursion: int  # references to a schema within itself
    optional: int  # members of an object that it need not have
    positions: int  # of the pattern in all


TRIED = (  # the first that gives a pattern small enough is used
    Bounds(40, 3, 3, 2, 1_000, 5_000),
    Bounds(20, 1, 2, 2, 1_000, 5_000),
    Bounds(8, 1, 1, 1, 1_000, MAX_POSITIONS),
    Bounds(8, 1, 1, 1, 3, MAX_POSITIONS),
    Bounds(8, 0, 1, 1, 0, MAX_POSITIONS),
)
