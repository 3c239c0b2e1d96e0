"""What a run saves on the disk, each file written beside its place and renamed into it, so always whole.

- `state.safetensors`: everything a killed run needs to go on as if nothing had happened; gone once the run has published.
- `ckpt_<epoch>.safetensors`: the weights after each epoch, as they were scored. The best is what is published; all of them
  stay, as TensorBoard's files beside them do, until the next run of that name begins.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save as serialize

from trainer.artifact import sync, write_synced

STATE, PROGRESS = "state.safetensors", "progress"


class StateDamaged(ValueError):
    """The saved state can't be read."""


@dataclass(frozen=True)
class State:
    """tensors: weights, averages, optimizer, recurrent states, by name. progress: where the run is, and what it has seen."""

    tensors: dict[str, NDArray[Any]]
    progress: dict[str, Any]


def save_state(folder: Path, state: State) -> None:
    # As a tensor: safetensors allows its metadata no 100 MB, and a history may be long.
    progress = np.frombuffer(json.dumps(state.progress).encode(), np.uint8)
    _write(folder / STATE, state.tensors | {PROGRESS: progress})


def load_state(folder: Path) -> State | None:
    """The unfinished run in `folder`, if there is one. Raises StateDamaged."""
    with _open_state(folder) as file:
        if file is None:
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return State(tensors, json.loads(tensors.pop(PROGRESS).tobytes()))


def load_progress(folder: Path) -> dict[str, Any] | None:
    """`State.progress` alone."""
    with _open_state(folder) as file:
        return None if file is None else dict(json.loads(file.get_tensor(PROGRESS).tobytes()))


@contextmanager
def _open_state(folder: Path) -> Iterator[Any]:
    try:
        with safe_open(folder / STATE, framework="numpy") as file:
            yield file
    except FileNotFoundError:
        yield None
    except SafetensorError as error:
        raise StateDamaged(f"{folder / STATE}: damaged ({error}); begin anew with --fresh") from error


def finish(folder: Path) -> None:
    """The run has published: there is nothing to go on with."""
    (folder / STATE).unlink(missing_ok=True)


def path(folder: Path, epoch: int) -> Path:
    return folder / f"ckpt_{epoch}.safetensors"


def save(folder: Path, epoch: int, weights: Mapping[str, NDArray[np.float32]]) -> None:
    _write(path(folder, epoch), weights)


def load(file: Path) -> dict[str, NDArray[np.float32]]:
    return load_file(file)


def clear(folder: Path) -> None:
    """Removes what an earlier run has left."""
    finish(folder)  # first, so that no state is ever left without its checkpoints
    for pattern in ("ckpt_*.safetensors", "*.part", "tensorboard/*"):
        for file in folder.glob(pattern):
            file.unlink()


def _write(file: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    draft = file.with_suffix(".part")
    try:
        write_synced(draft, serialize({name: np.asarray(tensor) for name, tensor in tensors.items()}))
        draft.replace(file)
        sync(file.parent)
    except OSError:
        draft.unlink(missing_ok=True)  # don't leave a full disk fuller
        raise
