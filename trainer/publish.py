"""What a finished run publishes: its best epoch, with exact scores, its history, its curves, and a sample."""

import json
import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from trainer import __version__, artifact, checkpoints, network, report
from trainer.artifact import ArtifactError, PublishedScores, Tensors, Version
from trainer.corpus import Corpus
from trainer.report import EpochRow
from trainer.served import served_scores

if TYPE_CHECKING:
    from trainer.loop import Run

SAMPLE_CHARACTERS = 1000
ELSEWHERE = {"name", "models_dir", "corpus", "recipe", "cell", "layers", "units", "embedding"}  # options beside `training`
OF_NO_EFFECT = {"save_every"}  # on what is learnt


def best_epoch(history: list[EpochRow]) -> int:
    """The epoch with the lowest held-out full_pass; the last where nothing was held out."""
    scores = [(score, row["epoch"]) for row in history if (score := row["held_out"]["full_pass"]) is not None]
    return min(scores)[1] if scores else history[-1]["epoch"]


def publish(run: "Run") -> Version:
    """Publishes the run's best epoch with exact scores, the history, its curves, and a sample."""
    config, text, history = run.config, run.text, run.history
    best = best_epoch(history)
    weights = checkpoints.load(checkpoints.path(config.work_dir, best))
    network.load(run.single, weights)
    sample = run.sampler.sample(cut_opening(text), SAMPLE_CHARACTERS, 1.0, config.seed)
    options = config.model_dump(mode="json", exclude=ELSEWHERE | OF_NO_EFFECT) | {"init_from": run.init_from}
    return artifact.publish(
        config.models_dir,
        {
            "name": config.name,
            **run.architecture.model_dump(),
            "characters": len(text.ids),
            "recipe": config.recipe,
            "training": {
                **options,
                "corpus": [_escape(path.name) for path in config.corpus],
                "best_epoch": best,
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
        },
        weights,
        {
            "training.json": json.dumps({**options, "best_epoch": best, "history": history}, indent=1).encode(),
            "loss.png": report.loss_curve(history, best, f"{config.name}, recipe {config.recipe}"),
            "sample.txt": sample.encode(),
            "events.out.tfevents": report.summary_file(history, len(run.examples)),
        },
    )


def _score(run: "Run", weights: Tensors) -> PublishedScores:
    """Exact scores as trained and as served, where something was held out."""
    if len(run.held_out) < 2:
        return PublishedScores()
    trained = run.evaluator.scores(weights, run.held_out)
    served = served_scores(run.architecture, weights, run.held_out, run.library, run.stop)
    return PublishedScores(**trained.model_dump(), as_served=served)


def find_published(run: "Run") -> Version | None:
    """The newest version if it is this run's: a run killed between publishing and noting it would publish again."""
    model = run.config.models_dir / run.config.name
    numbers = artifact.versions(model)
    if not numbers:
        return None
    try:
        newest = artifact.read(model / str(numbers[-1]))
    except ArtifactError:
        return None
    weights = checkpoints.load(checkpoints.path(run.config.work_dir, best_epoch(run.history)))
    same = weights.keys() == newest.tensors.keys() and all(np.array_equal(weights[name], newest.tensors[name]) for name in weights)
    return newest if same else None


def cut_opening(text: Corpus, longest: int = 40) -> str:
    """The text's first line with its line break, at most `longest` characters: a start string that any corpus has."""
    return text.vocabulary.decode(text.ids[:longest].tolist()).splitlines(keepends=True)[0]


def _escape(name: str) -> str:
    """A file's name as text, those of its bytes that are not UTF-8 escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
