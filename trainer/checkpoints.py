"""What a run saves on disk. Each file is written under a temporary name and then renamed, so it is always complete.

- `state.safetensors`: everything that an interrupted run needs to continue. It is deleted when the run has published.
- `ckpt_<epoch>.safetensors`: the weights after each epoch, as they were scored. The best epoch's are published. All of them, and
  TensorBoard's files, stay until the next run of that name begins.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save as serialize

from trainer.artifact import sync, write_synced
from trainer.errors import TrainerError

STATE, PROGRESS = "state.safetensors", "progress"


@dataclass(frozen=True)
class SavedState:
    """What `trainer.state` saves. tensors: by name. progress: JSON values."""

    tensors: dict[str, NDArray[Any]]
    progress: dict[str, Any]


def save_state(folder: Path, state: SavedState) -> None:
    # A tensor, because safetensors limits its metadata to 100 MB, and a history can be long.
    progress = np.frombuffer(json.dumps(state.progress).encode(), np.uint8)
    _write(folder / STATE, state.tensors | {PROGRESS: progress})


def load_state(folder: Path) -> SavedState | None:
    """The state of the unfinished run in `folder`, if there is one. Raises TrainerError if it is damaged."""
    progress = load_progress(folder)
    if progress is None:
        return None
    tensors = load_file(folder / STATE)
    del tensors[PROGRESS]
    return SavedState(tensors, progress)


def load_progress(folder: Path) -> dict[str, Any] | None:
    """Like `load_state`, but only the progress."""
    try:
        with safe_open(folder / STATE, framework="numpy") as file:
            return dict(json.loads(file.get_tensor(PROGRESS).tobytes()))
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        raise TrainerError(f"{folder / STATE}: damaged ({error}); start again with --fresh") from error


def delete_state(folder: Path) -> None:
    """Deletes the state of a run that has published."""
    (folder / STATE).unlink(missing_ok=True)


def has_finished(folder: Path) -> bool:
    """Whether the last run in `folder` has published. A run saves its state before its first checkpoint."""
    return not (folder / STATE).exists() and any(folder.glob("ckpt_*.safetensors"))


def path(folder: Path, epoch: int) -> Path:
    return folder / f"ckpt_{epoch}.safetensors"


def save(folder: Path, epoch: int, weights: Mapping[str, NDArray[np.float32]]) -> None:
    _write(path(folder, epoch), weights)


def load(file: Path) -> dict[str, NDArray[np.float32]]:
    return load_file(file)


def clear(folder: Path) -> None:
    """Deletes the files of an earlier run."""
    delete_state(folder)  # first, so that no state is left without its checkpoints
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
        draft.unlink(missing_ok=True)  # frees space on a full disk
        raise
