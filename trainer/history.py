"""A run's history: what training.json lists for each epoch, and what follows from it. Does not know networks or files."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

CURVE_POINTS = 50  # points of the loss curve per epoch


class EpochRow(TypedDict):
    """One epoch. Losses and scores are in nats per character."""

    epoch: int  # from 1
    last_loss: float  # of the last batch
    mean_loss: float  # over all batches
    learning_rate: float  # after the last batch
    held_out: dict[str, float | None]  # artifact.Scores; full_pass is the fast estimate, config.json has the exact score
    seconds: float  # of training and of saves between batches, without scoring and sampling
    characters_per_second: float  # of all workers together
    losses: list[float]  # means over consecutive batches
    samples: NotRequired[dict[str, str]]  # by temperature; worker 0 only


def best_epoch(history: Sequence[EpochRow]) -> int:
    """The epoch with the lowest held-out full_pass. Without held-out text, the last epoch."""
    scores = [(score, row["epoch"]) for row in history if (score := row["held_out"]["full_pass"]) is not None]
    return min(scores)[1] if scores else history[-1]["epoch"]


def has_stalled(history: Sequence[EpochRow], patience: int) -> bool:
    """Whether the score has not improved for `patience` epochs. With a patience of 0, never."""
    return bool(patience and history and history[-1]["epoch"] - best_epoch(history) >= patience)


def thin(losses: Sequence[float]) -> list[float]:
    """At most CURVE_POINTS means over consecutive batches."""
    width = -(-len(losses) // CURVE_POINTS)
    return [sum(part) / len(part) for part in (losses[i : i + width] for i in range(0, len(losses), width))]
