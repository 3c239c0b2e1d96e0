"""What is checked before a run starts, so that it fails at once and not after hours. Knows no TensorFlow."""

import shutil

from trainer import artifact
from trainer.artifact import GATES, ArtifactError, Version, VersionConfig
from trainer.checkpoints import State
from trainer.config import TrainingConfig
from trainer.corpus import Corpus
from trainer.machine import Position, TooLarge, read_memory
from trainer.options import Options, RunConflict


def check_memory(config: TrainingConfig, vocabulary: list[str]) -> None:
    """Raises TooLarge, before hours or the machine are lost, when a run can't fit into memory."""
    needed, available = estimate_memory(config, vocabulary), read_memory()
    if needed > available:
        raise TooLarge(
            f"{config.layers} x {config.units:,} units with batches of {config.batch_size} x {config.seq_length} characters, "
            f"{len(vocabulary):,} distinct, need at least {needed / 2**30:,.1f} GiB of memory, of which there are "
            f"{available / 2**30:,.1f}; take fewer --units or --layers, or a smaller --batch-size or --seq-length"
        )


def check_disk(config: TrainingConfig, vocabulary: list[str]) -> None:
    """Raises TooLarge, before hours are lost, when what a run saves can't fit the disk."""
    weights = 4 * config.architecture(vocabulary).parameter_count
    state = weights * (3 + (config.averaging > 0))
    needed, free = 2 * state + (config.epochs + 1) * weights, shutil.disk_usage(config.work_dir).free
    free += sum(file.stat().st_size for file in config.work_dir.glob("*.safetensors"))  # there already, or to be replaced
    if needed > free:
        raise TooLarge(
            f"{config.work_dir}: {config.epochs} checkpoints and what a run goes on from need {needed / 2**20:,.0f} MiB, "
            f"{free / 2**20:,.0f} are free; make room, or take fewer --epochs or another --models-dir"
        )


def estimate_memory(config: TrainingConfig, vocabulary: list[str]) -> int:
    """Bytes that a training step needs at least.

    Each weight with its gradient, Adam's two moments and its average, and what a step keeps for the way back: for each
    recurrent layer gates, states and outputs; the logits and their gradient.
    """
    kept = config.layers * (2 * GATES[config.cell] + 1) * config.units + 2 * len(vocabulary)
    weights = config.architecture(vocabulary).parameter_count
    return 4 * ((4 + (config.averaging > 0)) * weights + config.batch_size * config.seq_length * kept)


def check_resumable(config: TrainingConfig, text: Corpus, state: State, position: Position) -> None:
    """Raises RunConflict unless `state` can be continued here, on this text."""
    named = ", ".join(map(str, config.corpus))
    if state.progress["workers"] != position.workers:
        raise RunConflict(
            f"the interrupted run was begun with {state.progress['workers']} workers; there are {position.workers} now"
        )
    if state.progress["corpus"] != text.sha256:
        raise RunConflict(f"{named}: not the text that the interrupted run was trained on")
    if len(state.tensors["weights/embedding"]) != len(text.vocabulary):
        raise RunConflict(
            f"{named}: an earlier release began the interrupted run, and read the byte-order mark as a character; "
            "begin anew with --fresh"
        )


def check_start(options: Options, text: Corpus, init: Version | None) -> None:
    """Raises RunConflict where a new run would do what nobody asked for: train on, or publish as, something not named."""
    if init is not None and "corpus" not in options.given and init.config.sha256.corpus != text.sha256:
        raise RunConflict(f"{init.path}: its corpus does not come with this package; say what to train on with --corpus FILE")
    if "name" in options.given:
        return
    # A running server swaps to what is published.
    model, newest = options.config.models_dir / options.config.name, _newest_config(options)
    if newest is not None and newest.sha256.corpus != text.sha256:
        raise RunConflict(
            f"{model} was trained on another text; --name {model.name} publishes its next version, another --name a new model"
        )


def _newest_config(options: Options) -> VersionConfig | None:
    """Of the newest version that can be read."""
    model = options.config.models_dir / options.config.name
    for number in reversed(artifact.versions(model)):
        try:
            return artifact.read_config(model / str(number))
        except ArtifactError:
            continue
    return None
