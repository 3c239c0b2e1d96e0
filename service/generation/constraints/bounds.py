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
    positions: int  # that the pattern may have


TRIED = (
    Bounds(40, 3, 3, 2, 5_000),
    Bounds(20, 1, 2, 2, 5_000),
    Bounds(8, 1, 1, 1, MAX_POSITIONS),
)  # the first that will do is used
