"""Checkpoints: after each epoch, what is needed to go on or to publish, in one file ckpt_<epoch>.safetensors.

Each file is written beside its place and renamed into it, so a checkpoint that can be seen is whole.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save as serialized

from trainer.artifact import write_synced

PATTERN = re.compile(r"ckpt_([1-9]\d*)\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """weights: by published name. optimizer: its variables in order. progress: the epoch and the history so far."""

    weights: dict[str, NDArray[np.float32]]
    optimizer: list[NDArray[Any]]
    progress: dict[str, Any]


def save(folder: Path, epoch: int, checkpoint: Checkpoint) -> None:
    path = folder / f"ckpt_{epoch}.safetensors"
    tensors: dict[str, NDArray[Any]] = {f"network/{name}": tensor for name, tensor in checkpoint.weights.items()}
    tensors |= {f"optimizer/{i}": np.asarray(tensor) for i, tensor in enumerate(checkpoint.optimizer)}
    draft = path.with_suffix(".part")
    write_synced(draft, serialized(tensors, metadata={"progress": json.dumps(checkpoint.progress)}))
    draft.replace(path)


def load(path: Path) -> Checkpoint:
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        weights = {name.removeprefix("network/"): file.get_tensor(name) for name in names if name.startswith("network/")}
        count = len(names) - len(weights)
        optimizer = [file.get_tensor(f"optimizer/{i}") for i in range(count)]
        return Checkpoint(weights, optimizer, json.loads(file.metadata()["progress"]))


def latest(folder: Path) -> Path | None:
    """The checkpoint of the highest epoch in `folder`, if any."""
    found = _all(folder)
    return found[max(found)] if found else None


def clear(folder: Path) -> None:
    """Removes the checkpoints of `folder`, and what a killed run left half-written."""
    for path in (*_all(folder).values(), *folder.glob("*.part")):
        path.unlink()


def _all(folder: Path) -> dict[int, Path]:
    """By epoch."""
    return {int(match[1]): path for path in folder.iterdir() if (match := PATTERN.fullmatch(path.name))}
