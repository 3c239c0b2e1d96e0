"""How characters are drawn: what a request may ask for, and that as the arrays a decoder's graph takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Sampling:
    """From softmax(logits / temperature) over the allowed characters; top_k, top_p and min_p leave the unlikely ones out.

    top_k keeps the k likeliest characters (of equally likely ones those of lower id); of what that left, top_p keeps the
    fewest likeliest ones whose probabilities reach it (nucleus sampling, Holtzman et al. 2020), and min_p those at least
    min_p times as likely as the likeliest (Nguyen et al. 2024). The defaults leave nothing out. Temperature 0 takes the
    likeliest allowed character, and so does top_p 0.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    allowed: NDArray[np.bool_] | None = None  # [vocabulary], at least one true

    @property
    def restricted(self) -> bool:
        """Some characters may be left out."""
        return self.allowed is not None or self.top_k is not None or self.top_p < 1 or self.min_p > 0


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
