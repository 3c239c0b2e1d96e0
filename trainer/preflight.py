"""The checks before a run starts, so that it fails at once and not after hours. Does not import TensorFlow."""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from trainer import artifact
from trainer.artifact import GATES, ArtifactError, Version, VersionConfig
from trainer.batches import split
from trainer.checkpoints import SavedState
from trainer.cluster import Rank
from trainer.config import TrainingConfig
from trainer.corpus import Corpus
from trainer.errors import CorpusError, RunConflict, TrainerError
from trainer.options import Options
from trainer.resources import read_memory
from trainer.scoring import count_rows, count_steps

PACKAGES = ("filelock", "keras", "matplotlib", "tensorboard", "tensorflow")  # the extra `trainer`
PYTHON, NEWEST_PYTHON = sys.version_info[:2], (3, 13)  # the newest that TensorFlow has a release for
RUNTIME = 600 << 20  # bytes that Python takes with TensorFlow imported and a network's functions traced


def check_packages() -> None:
    """Raises TrainerError."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if "tensorflow" in missing and PYTHON > NEWEST_PYTHON:
        here, newest = (".".join(map(str, version)) for version in (PYTHON, NEWEST_PYTHON))
        raise TrainerError(
            f"training needs TensorFlow, which has no release for Python {here}; use Python 3.11 to {newest}, "
            f"as in `make train PYTHON=python{newest}` or `uvx --python {newest} --from 'folio-rnn[trainer]' folio train`"
        )
    if missing:
        raise TrainerError(
            f"{', '.join(missing)} not installed; install what training needs with `pip install 'folio-rnn[trainer]'`, "
            "or in a clone with `make train TEXT=my.txt NAME=mine`, which also trains"
        )


def check_writable(model: Path) -> None:
    """Raises OSError if no version can be written to the folder."""
    with tempfile.TemporaryDirectory(prefix=artifact.DRAFT, dir=model):
        pass


def check_run(
    options: Options, text: Corpus, worker: Rank, saved: SavedState | None, init: Version | None, teachers: Sequence[Version]
) -> None:
    """Raises TrainerError unless the run can start, or with `saved` resume."""
    config, characters = options.config, text.vocabulary.characters
    if saved is not None:
        check_resumable(config, text, saved, worker, teachers)
    else:
        check_corpus(options, text, init)
        if init is not None:
            check_unseen("--init-from", init, config, text)
    for position, teacher in enumerate(teachers):
        if teacher.reference in [other.reference for other in teachers[:position]]:
            raise RunConflict(f"--teacher: {teacher.path} is given twice")
        check_teacher(teacher, config, text)
    trained_on, _ = split(text.ids, config.held_out)
    check_length(len(trained_on), worker.world_size * config.batch_size, config.seq_length)
    check_memory(config, characters)
    check_disk(config, characters)


def check_resumable(config: TrainingConfig, text: Corpus, saved: SavedState, worker: Rank, teachers: Sequence[Version]) -> None:
    """Raises RunConflict unless the saved run had the same number of workers, the same text and the same teachers."""
    names, workers = ", ".join(map(str, config.corpus)), saved.progress["workers"]
    if workers != worker.world_size:
        raise RunConflict(f"the interrupted run was started with {workers} workers; there are {worker.world_size} now")
    if saved.progress["corpus"] != text.sha256:
        raise RunConflict(f"{names}: not the text that the interrupted run was trained on")
    began, given = saved.progress.get("teachers", []), [teacher.reference for teacher in teachers]
    if began != given:
        named, found = (", ".join(f"{one['name']}/{one['version']}" for one in listed) for listed in (began, given))
        changed = "" if named != found else ", but with other weights"
        raise RunConflict(f"--teacher: the interrupted run learns from {named}, in this order; given are {found}{changed}")
    if len(saved.tensors["weights/embedding"]) != len(text.vocabulary):
        raise RunConflict(
            f"{names}: the interrupted run was started by an earlier release, which read the byte-order mark as a character; "
            "start again with --fresh"
        )


def check_corpus(options: Options, text: Corpus, init: Version | None) -> None:
    """Raises RunConflict if a new run would use a default corpus or name that was probably not meant."""
    if init is not None and "corpus" not in options.given and init.config.sha256.corpus != text.sha256:
        raise RunConflict(f"{init.path}: its corpus does not come with this package; give a text to train on with --corpus FILE")
    if "name" in options.given:
        return
    model = options.config.models_dir / options.config.name
    newest = _newest_config(model)
    if newest is not None and newest.sha256.corpus != text.sha256:  # a running server would switch to the new version
        raise RunConflict(
            f"{model} was trained on another text; give --name {model.name} to publish its next version, or another --name for "
            "a new model"
        )


def check_teacher(teacher: Version, config: TrainingConfig, text: Corpus) -> None:
    """Raises RunConflict if a student of the text can't learn from the version, or its held-out scores would say nothing."""
    own, known = text.vocabulary.characters, teacher.config.vocabulary
    if own != known:
        differences = {"lacks": sorted(set(own) - set(known)), "also has": sorted(set(known) - set(own))}
        listed = " and ".join(f"{verb} {', '.join(map(repr, found))}" for verb, found in differences.items() if found)
        whose = "the text's vocabulary" if config.init_from is None else "the vocabulary of the text and of --init-from"
        raise RunConflict(f"--teacher: {teacher.path} does not have {whose}: it {listed or 'has another order'}")
    check_unseen("--teacher", teacher, config, text)


def check_unseen(option: str, version: Version, config: TrainingConfig, text: Corpus) -> None:
    """Raises RunConflict if the version was trained on a part of what this run holds out."""
    held_out = version.config.training.get("held_out") or 0
    if version.config.sha256.corpus == text.sha256 and held_out < config.held_out:
        raise RunConflict(
            f"{option}: {version.path} was trained on a part of what this run holds out: it held out {held_out:g} of the "
            f"text, this run {config.held_out:g}; give --held-out {held_out:g}, or a version that held out {config.held_out:g}"
        )


def _newest_config(model: Path) -> VersionConfig | None:
    """The config.json of the newest valid version."""
    for number in reversed(artifact.versions(model)):
        try:
            return artifact.read_config(model / str(number))
        except ArtifactError:
            continue
    return None


def check_length(characters: int, rows: int, seq_length: int) -> None:
    """Raises CorpusError if the training part does not fill one batch of `rows`."""
    needed = rows * (seq_length + 1)
    if characters < needed:
        raise CorpusError(
            f"there are {characters:,} characters to train on, {needed - characters:,} short of one batch: {rows} rows of "
            f"{seq_length + 1} characters are {needed:,}; give more text, or a smaller --batch-size, --seq-length or --held-out"
        )


def check_memory(config: TrainingConfig, vocabulary: list[str]) -> None:
    """Raises TrainerError if the run does not fit into memory."""
    needed, available = estimate_memory(config, vocabulary), read_memory()
    if needed > available:
        raise TrainerError(
            f"{config.layers} x {config.units:,} units with batches of {config.batch_size} x {config.seq_length} characters, "
            f"{len(vocabulary):,} distinct, need at least {needed / 2**30:,.1f} GiB of memory; {available / 2**30:,.1f} GiB are "
            "available; use fewer --units or --layers, or a smaller --batch-size or --seq-length"
        )


def check_disk(config: TrainingConfig, vocabulary: list[str]) -> None:
    """Raises TrainerError if what the run saves does not fit on the disk."""
    weights = 4 * config.architecture(vocabulary).parameter_count
    state = weights * (3 + (config.averaging > 0))
    needed, free = 2 * state + (config.epochs + 1) * weights, shutil.disk_usage(config.work_dir).free
    free += sum(file.stat().st_size for file in config.work_dir.glob("*.safetensors"))  # these are counted in `needed`
    if needed > free:
        raise TrainerError(
            f"{config.work_dir}: the saved state and {config.epochs} checkpoints need {needed / 2**20:,.0f} MiB, "
            f"{free / 2**20:,.0f} MiB are free; free some space, or use fewer --epochs or another --models-dir"
        )


def estimate_memory(config: TrainingConfig, vocabulary: list[str]) -> int:
    """Bytes that a run needs at least: TensorFlow, the weights, and the largest of a step, a save and scoring.

    Each weight is held with Adam's two moments and its moving average.
    """
    weights = config.architecture(vocabulary).parameter_count
    saved = 3 + (config.averaging > 0)  # values per weight in a save, which holds them twice: as arrays and as the file's bytes
    step = 2 * weights + _count_step_values(config, len(vocabulary))  # gradients, and the weights after dropout
    scoring = _count_scoring_values(config, len(vocabulary)) if config.held_out else 0
    return RUNTIME + 4 * (saved * weights + max(step, 2 * saved * weights, scoring))


def _count_step_values(config: TrainingConfig, characters: int) -> int:
    """The values, besides weights, that a training step holds at its peak.

    For each unit of each layer: the gates, two more values for the backward pass, the outputs twice. For one layer at a time: the
    gradients of the gates' sums in three layouts. The logits, their gradient, and a copy in another layout.
    """
    gates = GATES[config.cell]
    units = config.units * (config.layers * (gates + 4) + 3 * gates + 2)
    probabilities = 4 if config.teacher else 0  # targets: of this batch and the next one, each in parts and whole
    return config.batch_size * config.seq_length * (units + (3 + probabilities) * characters)


def _count_scoring_values(config: TrainingConfig, characters: int) -> int:
    """The values that scoring holds at its peak: a layer's gates and outputs for all steps, and the logits in two layouts."""
    gates, rows = GATES[config.cell], count_rows(characters)
    return rows * count_steps(rows, characters) * (config.units * (gates + 4) + 2 * characters)
