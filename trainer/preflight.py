"""What is checked before a run starts, so that it fails at once and not after hours. Knows no TensorFlow."""

import shutil

from trainer import artifact
from trainer.artifact import GATES, ArtifactError, Version, VersionConfig
from trainer.checkpoints import State
from trainer.config import TrainingConfig
from trainer.corpus import Corpus
from trainer.options import Options, RunConflict
from trainer.resources import Position, TooLarge, count_rows, count_steps, read_memory

RUNTIME = 600 << 20  # bytes that Python takes with TensorFlow imported and a network's functions traced


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
    """Bytes that a run needs at least: TensorFlow, the weights, and the largest of a step, a save and scoring.

    Kept throughout for each weight: itself, Adam's two moments, its average, and its copy in the network that samples.
    """
    weights = config.architecture(vocabulary).parameter_count
    learnt = 3 + (config.averaging > 0)  # what a save writes: once as arrays, once as the file's bytes
    step = 2 * weights + _count_step_values(config, len(vocabulary))  # gradients, and the weights that dropout leaves
    scoring = _count_scoring_values(config, len(vocabulary)) if config.held_out else 0
    return RUNTIME + 4 * ((learnt + 1) * weights + max(step, 2 * learnt * weights, scoring))


def _count_step_values(config: TrainingConfig, characters: int) -> int:
    """Values other than weights that a training step holds at its peak.

    For each unit of each layer: gates and two more for the way back, the outputs twice. For one layer at a time: the
    gradients of what its gates are sums of, in three layouts. The logits, their gradient, and a copy in another layout.
    """
    gates = GATES[config.cell]
    units = config.units * (config.layers * (gates + 4) + 3 * gates + 2)
    return config.batch_size * config.seq_length * (units + 3 * characters)


def _count_scoring_values(config: TrainingConfig, characters: int) -> int:
    """Values that scoring holds at its peak: what a layer's steps keep, its outputs twice, the logits in two layouts."""
    gates, rows = GATES[config.cell], count_rows(characters)
    return rows * count_steps(rows, characters) * (config.units * (gates + 4) + 2 * characters)


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
