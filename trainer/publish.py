"""Publishes a finished run: its best epoch's weights with exact scores, its history and loss curve, and a sample."""

import json
import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from trainer import __version__, artifact, checkpoints, report
from trainer.artifact import ArtifactError, PublishedScores, Tensors, Version
from trainer.history import best_epoch
from trainer.sampling import opening, sample
from trainer.served import served_scores
from trainer.tokenizer import tokenizer_json

if TYPE_CHECKING:
    from trainer.loop import Run

SAMPLE_CHARACTERS = 1000
OF_TEACHERS = {"teacher", "teachers_at_a_time", "text_share"}
# Options that config.json does not list under `training`: it has them elsewhere, or they do not change what is learnt.
NOT_IN_TRAINING = {"name", "models_dir", "corpus", "recipe", "cell", "layers", "units", "embedding", "save_every"}


def publish(run: "Run") -> Version:
    """Publishes the run's best epoch."""
    config, text, history = run.config, run.text, run.state.history
    best = best_epoch(history)
    weights = checkpoints.load(checkpoints.path(config.work_dir, best))
    options = config.model_dump(mode="json", exclude=NOT_IN_TRAINING | (set() if config.teacher else OF_TEACHERS))
    options |= {"init_from": run.state.init_from, "best_epoch": best}
    if config.teacher:
        options["teacher"] = run.state.teachers
    fields = {
        "name": config.name,
        **run.architecture.model_dump(),
        "characters": len(text.ids),
        "recipe": config.recipe,
        "training": {
            **options,
            "corpus": [_escape(path.name) for path in config.corpus],
            "last_loss": history[best - 1]["last_loss"],
        },
        "scores": _score(run, weights).model_dump(),
        "sha256": {"corpus": text.sha256},
        "packages": {
            "folio": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (text_sample,) = sample(run.architecture, weights, opening(text), SAMPLE_CHARACTERS, [1.0], config.seed, run.library)
    extras = {
        "training.json": json.dumps({**options, "history": history}, indent=1).encode(),
        "loss.png": report.loss_curve(history, best, f"{config.name}, recipe {config.recipe}"),
        "sample.txt": text_sample.encode(),
        "tokenizer.json": tokenizer_json(run.architecture.vocabulary),
        "events.out.tfevents": report.summary_file(history, len(run.batches)),
    }
    return artifact.publish(config.models_dir, fields, weights, extras)


def _score(run: "Run", weights: Tensors) -> PublishedScores:
    """Exact scores as trained and as served. Without held-out text, none."""
    if len(run.held_out) < 2:
        return PublishedScores()
    trained = run.evaluator.scores(weights, run.held_out)
    served = served_scores(run.architecture, weights, run.held_out, run.library, run.stop)
    return PublishedScores(**trained.model_dump(), as_served=served)


def find_published(run: "Run") -> Version | None:
    """The newest version, if this run published it."""
    model = run.config.models_dir / run.config.name
    numbers = artifact.versions(model)
    if not numbers:
        return None
    try:
        newest = artifact.read(model / str(numbers[-1]))
    except ArtifactError:
        return None
    weights = checkpoints.load(checkpoints.path(run.config.work_dir, best_epoch(run.state.history)))
    same = weights.keys() == newest.tensors.keys() and all(np.array_equal(weights[name], newest.tensors[name]) for name in weights)
    return newest if same else None


def _escape(name: str) -> str:
    """A file name, with bytes that are not UTF-8 escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
