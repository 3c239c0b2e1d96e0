"""Log-probabilities of characters, in the forms of the APIs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.generation.backend import LogProbabilities
from trainer.vocabulary import Vocabulary

Named = tuple[str, float]  # a character and its log-probability


def named_logprobs(vocabulary: Vocabulary, found: LogProbabilities) -> tuple[list[float], list[list[Named]]]:
    """(Log-probability of each chosen character, the likeliest characters at its position with theirs)."""
    names = np.array(vocabulary.characters, object)[found.top_ids].tolist()
    return found.chosen.tolist(), [list(zip(*pair, strict=True)) for pair in zip(names, found.top_values.tolist(), strict=True)]


def character_logprobs(vocabulary: Vocabulary, characters: Sequence[int], found: LogProbabilities) -> list[dict[str, Any]]:
    """`CharacterLogprob`s as plain dictionaries, for there may be many."""
    chosen, top = named_logprobs(vocabulary, found)
    return [
        {
            "character": vocabulary.characters[character],
            "logprob": logprob,
            "likeliest": [{"character": name, "logprob": value} for name, value in likeliest],
        }
        for character, logprob, likeliest in zip(characters, chosen, top, strict=True)
    ]
