"""How characters are drawn: what a request may ask for, and that as the arrays a backend's graph takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

EXCLUDED = np.float32(-3e38)  # the logit of a character that must not be drawn


@dataclass(frozen=True, eq=False)
class Automaton:
    """Which characters may come next: `next[state, character]` is the state after it, -1 where it is not allowed.

    The characters are those of the vocabulary, then any number of others, which the network does not know. Where none of the
    vocabulary's is allowed, one of the others is drawn, each as likely, and the network does not see it. Where nothing is
    allowed the text has ended: the draw gives -1.
    """

    next: NDArray[np.int32]  # [states, characters]


@dataclass(frozen=True, eq=False)
class Sampling:
    """How the next character is drawn from the network's logits. The defaults draw from softmax(logits).

    In this order:
    1. `bias` is added to the logits.
    2. repetition_penalty divides the positive logits of characters that the prompt or the text has, and multiplies the others
       (Keskar et al. 2019). Then frequency_penalty, times how often the text has it, and presence_penalty, if the text has it,
       are subtracted. The text is what was generated; the prompt is not part of it. So OpenAI and vLLM define them.
    3. Characters that are not in `allowed`, or that the automaton does not allow, are left out.
    4. The logits are divided by the temperature. 0 takes the likeliest character.
    5. top_k keeps the k likeliest characters; of equally likely ones those of lower id.
    6. top_p keeps the fewest likeliest of these whose probabilities reach it (Holtzman et al. 2020); 0 keeps one.
    7. min_p keeps those of these that are at least min_p times as likely as the likeliest (Nguyen et al. 2024).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    allowed: NDArray[np.bool_] | None = None  # [vocabulary], at least one true
    bias: NDArray[np.float32] | None = None  # [vocabulary]
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    automaton: Automaton | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        ranges = (
            ("temperature", "finite and at least 0", 0 <= self.temperature < np.inf),
            ("top_k", "at least 1", self.top_k is None or self.top_k >= 1),
            ("top_p", "from 0 to 1", 0 <= self.top_p <= 1),
            ("min_p", "from 0 to 1", 0 <= self.min_p <= 1),
            ("repetition_penalty", "above 0", 0 < self.repetition_penalty < np.inf),
        )
        for name, expected, valid in ranges:
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {expected}")

    @property
    def restricted(self) -> bool:
        """Some characters may be left out."""
        return self.allowed is not None or self.top_k is not None or self.top_p < 1 or self.min_p > 0

    @cached_property
    def penalizes(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1)

    @cached_property
    def needs_history(self) -> bool:
        """A draw depends on the characters before it, besides through the network's state."""
        return self.penalizes or self.automaton is not None

    @cached_property
    def exclusive_bias(self) -> NDArray[np.float32] | None:
        """The bias [vocabulary], EXCLUDED where a character is not allowed; None where there is neither."""
        if self.allowed is None:
            return self.bias
        bias = np.zeros(len(self.allowed), np.float32) if self.bias is None else self.bias
        return np.where(self.allowed, bias, EXCLUDED)


@dataclass(eq=False)
class History:
    """What penalties and an automaton remember of a row. Each call updates it."""

    counts: NDArray[np.int32]  # [2, vocabulary]: occurrences in the prompt, and in the generated text
    state: int = 0  # of the automaton

    @classmethod
    def of(cls, prompt: NDArray[np.int32], vocabulary: int) -> "History":
        """After a prompt, given by its ids, before anything was drawn."""
        counts = np.zeros((2, vocabulary), np.int32)
        counts[0] = np.bincount(prompt, minlength=vocabulary)
        return cls(counts)


@dataclass(frozen=True)
class SamplingArrays:
    """The samplings of B rows. `bias` is added to the logits; the last three keep everything where nothing was asked."""

    inverse_temperatures: NDArray[np.float32]  # [B, 1]
    bias: NDArray[np.float32]  # [B, vocabulary]: 0, or the least float32 where a character is not allowed
    top_k: NDArray[np.int32]  # [B, 1]
    top_p: NDArray[np.float32]  # [B, 1]
    min_p: NDArray[np.float32]  # [B, 1]

    @classmethod
    def of(cls, rows: Sequence[Sampling], vocabulary: int) -> "SamplingArrays":
        bias = np.zeros((len(rows), vocabulary), np.float32)
        for b, row in enumerate(rows):
            if row.allowed is not None:
                bias[b, ~row.allowed] = np.finfo(np.float32).min
        return cls(
            inverse_temperatures(rows),
            bias,
            np.array([[vocabulary if row.top_k is None else min(row.top_k, vocabulary)] for row in rows], np.int32),
            # 2, which no sum of probabilities reaches: at 1 rounding could leave the least likely characters out.
            # Not below 1e-30 either: the likeliest character is to stay, and float32 would make a 0 of less.
            np.array([[max(row.top_p, 1e-30) if row.top_p < 1 else 2] for row in rows], np.float32),
            np.array([[row.min_p] for row in rows], np.float32),
        )


def inverse_temperatures(rows: Sequence[Sampling]) -> NDArray[np.float32]:
    """1 / temperature [B, 1], at most 1e30: there only the likeliest character keeps a weight, as temperature 0 asks."""
    return np.array([[1 / min(max(row.temperature, 1e-30), 1e30)] for row in rows], np.float32)
