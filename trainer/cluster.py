"""Which worker of a cluster this process is. Does not import TensorFlow."""

import json
import os
from typing import NamedTuple

from trainer.errors import TrainerError


class Rank(NamedTuple):
    """The number of workers that train together, and the index of this one. Worker 0 is the chief."""

    world_size: int
    rank: int


ALONE = Rank(1, 0)


def read_rank() -> Rank:
    """Reads TF_CONFIG. Without it, this process trains alone. Raises TrainerError."""
    if "TF_CONFIG" not in os.environ:
        return ALONE
    try:
        config = json.loads(os.environ["TF_CONFIG"])
        addresses, task = config["cluster"]["worker"], config["task"]
        index = int(task["index"])
        if task["type"] != "worker" or not 0 <= index < len(addresses):
            raise ValueError(f"task is {task}, the workers are 0 to {len(addresses) - 1}")
    except (KeyError, TypeError, ValueError) as error:
        raise TrainerError(
            f"TF_CONFIG: {type(error).__name__}: {error}; expected "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        ) from error
    return Rank(len(addresses), index)
