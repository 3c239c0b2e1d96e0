"""How characters are sampled: a request's options, and the state that some of them need."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

UNLIMITED = 2**31 - 1  # characters
EXCLUDED = np.float32(-3e38)  # the logit of a character that must not be sampled


@dataclass(frozen=True, eq=False)
class Automaton:
    """Restricts which characters may come next. `next[state, character]` is the next state, or -1 if the character is not allowed.

    The first columns are the vocabulary. Further columns are characters that the network does not know. If n characters are
    allowed, each unknown one has probability 1/n. The network's distribution shares the remainder among the known ones. At
    temperature 0 the network chooses if it knows any. It does not read unknown characters.

    `distance[state]` is the least number of characters after which the text may end. A character is allowed only if its next state
    can end within the characters that are left (`History.num_left`). So a text that could end when it began ends in time.

    The last column is the end of the text. Nothing is allowed after it, and where nothing is allowed the chosen id is -1.
    """

    next: NDArray[np.int32]  # [states, characters]
    distance: NDArray[np.int32]  # [states]

    @property
    def end(self) -> int:
        """The id that ends the text."""
        return int(self.next.shape[1]) - 1

    def may_end(self, state: int) -> bool:
        """Whether the text can end in a state."""
        return bool(self.next[state, self.end] >= 0)

    def must_end(self, state: int) -> bool:
        """Whether the text can only end in a state."""
        return not (self.next[state, : self.end] >= 0).any()


@dataclass(frozen=True, eq=False)
class Sampling:
    """How the next character is sampled from the network's logits. The defaults sample from softmax(logits).

    The options apply in this order:
    1. `bias` is added to the logits.
    2. For characters of the prompt or the generated text, repetition_penalty divides positive logits and multiplies the others
       (Keskar et al. 2019). Then frequency_penalty times a character's count in the generated text is subtracted, and
       presence_penalty if that count is not 0. OpenAI and vLLM define them the same way.
    3. Characters that `allowed` or the automaton does not allow are excluded.
    4. The logits are divided by the temperature. Temperature 0 chooses the most likely character.
    5. top_k keeps the k most likely characters. Equal probabilities are ordered by id, the lowest first.
    6. top_p keeps the smallest set of the most likely remaining characters whose share of the probability reaches top_p
       (Holtzman et al. 2020). 0 keeps one character.
    7. min_p keeps the remaining characters with at least min_p times the highest probability (Nguyen et al. 2024).
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

    @cached_property
    def inverse_temperature(self) -> float:
        """1 / temperature, from 1e-30 to 1e30. At 1e30 only the most likely character keeps a weight."""
        return 1 / min(max(self.temperature, 1e-30), 1e30)

    @cached_property
    def f32_top_p(self) -> np.float32:
        """top_p as backends compare it with 1, more than 0."""
        return np.float32(max(self.top_p, 1e-30))

    @cached_property
    def plain(self) -> bool:
        """Whether only the temperature changes the network's probabilities."""
        excludes = self.allowed is not None or self.top_k is not None or self.f32_top_p < 1 or self.min_p > 0
        return not excludes and self.bias is None and not self.needs_history

    @cached_property
    def penalizes(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1)

    @cached_property
    def needs_history(self) -> bool:
        """Whether a row needs a `History`."""
        return self.penalizes or self.automaton is not None

    @cached_property
    def exclusive_bias(self) -> NDArray[np.float32] | None:
        """The bias [vocabulary], EXCLUDED where a character is not allowed. None if there is neither."""
        if self.allowed is None:
            return self.bias
        bias = np.zeros(len(self.allowed), np.float32) if self.bias is None else self.bias
        return np.where(self.allowed, bias, EXCLUDED)


@dataclass(eq=False)
class History:
    """The state of a row's penalties and automaton. Each iteration updates it."""

    counts: NDArray[np.int32]  # [2, vocabulary]: occurrences in the prompt, and in the generated text
    state: int = 0  # of the automaton
    num_left: int = UNLIMITED  # characters that may still be sampled, for the automaton

    @property
    def vocabulary(self) -> int:
        return int(self.counts.shape[1])

    @classmethod
    def of(cls, prompt: NDArray[np.int32], vocabulary: int, num_left: int = UNLIMITED) -> "History":
        """The history of a row that has read a prompt [characters] and sampled nothing."""
        counts = np.zeros((2, vocabulary), np.int32)
        counts[0] = np.bincount(prompt, minlength=vocabulary)
        return cls(counts, num_left=min(num_left, UNLIMITED))
