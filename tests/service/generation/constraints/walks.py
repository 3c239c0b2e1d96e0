"""Compiles patterns as the service does, and finds out what they match."""

import string
from random import Random

from outlines_core import Index, Vocabulary

from service.generation.constraints.pattern import END, ended

SHAKESPEARE = "\n !$&',-.3:;?" + string.ascii_letters


class Automaton:
    """A compiled pattern over the model's vocabulary, printable ASCII and the pattern's own characters."""

    def __init__(self, pattern: str, more: str = "") -> None:
        """`more`: further characters that the vocabulary holds."""
        self.characters = sorted(
            one for one in {*SHAKESPEARE, *string.printable[:95], *pattern, *more, END} if not "\ud800" <= one <= "\udfff"
        )
        vocabulary = Vocabulary(len(self.characters), {one: [i] for i, one in enumerate(self.characters)})
        index = Index(ended(pattern), vocabulary)
        self.start = index.get_initial_state()
        self.moves = {
            state: {self.characters[i]: target for i, target in moves.items() if i < len(self.characters)}
            for state, moves in index.get_transitions().items()
        }

    def matches(self, text: str) -> bool:
        """Whether the pattern matches the whole text."""
        state = self.start
        for character in text + END:
            moves = self.moves.get(state, {})
            if character not in moves:
                return False
            state = moves[character]
        return True

    def walk(self, random: Random) -> str:
        """A random text of the pattern."""
        text, state = "", self.start
        while True:
            character = random.choice(sorted(self.moves[state]))
            if character == END:
                return text
            text, state = text + character, self.moves[state][character]
