import io
import itertools
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from service.generation.generator import Generator
from tests.support import config as fields
from tests.support import random_tensors
from tests.trainer.conftest import shorten_samples
from trainer import artifact, checkpoints, corpus, history, loop, publish, report
from trainer.checkpoints import SavedState
from trainer.config import TrainingConfig
from trainer.corpus import Corpus
from trainer.errors import Diverged
from trainer.evaluation import Evaluator
from trainer.history import EpochRow, best_epoch
from trainer.served import find_library, served_scores

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"units": 16, "embedding": 8, "batch_size": 16, "seq_length": 5, "epochs": 2}
TEXT = "To be, or not to be, that is the question:\n" * 20

Small = tuple[TrainingConfig, Corpus]
Finished = Callable[[str], tuple[TrainingConfig, Corpus, artifact.Version]]


def prepare(folder: Path, **options: Any) -> Small:
    (folder / "text").write_text(TEXT)
    config = TrainingConfig(corpus=[folder / "text"], models_dir=folder / "models", name="small", **SMALL | options)
    config.work_dir.mkdir(parents=True)
    return config, corpus.read(config.corpus, config.work_dir)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    shorten_samples(monkeypatch)
    return prepare(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """finished(cell): a run that nothing happened to, and the version that it published; for tests that only read."""

    @cache
    def finished(cell: str) -> tuple[TrainingConfig, Corpus, artifact.Version]:
        config, text = prepare(tmp_path_factory.mktemp(cell), cell=cell)
        return config, text, published(config, text)

    return finished


def changed(config: TrainingConfig, **options: Any) -> TrainingConfig:
    return config.model_copy(update=options)


def fitted(config: TrainingConfig, text: Corpus, stop: Event | None = None, saved: SavedState | None = None) -> loop.Run:
    run = loop.Run(config, text, stop)
    loop.fit(run, saved)
    return run


def published(config: TrainingConfig, text: Corpus) -> artifact.Version:
    version = loop.train(config, text)
    assert version is not None
    return version


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_run_publishes_all_that_people_look_at(finished: Finished, cell: str) -> None:
    config, text, version = finished(cell)
    assert version.path == config.models_dir / "small" / "1"
    assert sorted(path.name for path in version.path.iterdir()) == [
        "config.json", "events.out.tfevents", "loss.png", "sample.txt", "tokenizer.json", "training.json",
        "weights.safetensors",
    ]  # fmt: skip
    assert (version.path / "loss.png").read_bytes().startswith(b"\x89PNG")
    sample = (version.path / "sample.txt").read_text()
    opening = "To be, or not to be, that is the questio"
    assert sample.startswith(opening)
    assert len(sample) == len(opening) + 1000
    assert set(sample) <= set(TEXT)
    assert version.config.cell == cell
    assert version.config.characters == len(TEXT)
    assert version.config.sha256.corpus == text.sha256
    assert version.config.training["epochs"] == 2
    assert version.config.recipe == "best"


def test_its_scores_are_those_of_the_text_that_was_held_out(finished: Finished) -> None:
    _, text, version = finished("gru")
    held_out = text.ids[-round(0.1 * len(TEXT)) :]
    trained = Evaluator(version.config).scores(version.tensors, held_out)
    served = served_scores(version.config, version.tensors, held_out, find_library(print))
    assert version.config.scores == artifact.PublishedScores(**trained.model_dump(), as_served=served)
    written = json.loads((version.path / artifact.CONFIG).read_text())["scores"]
    assert written == {**trained.model_dump(), "as_served": served.model_dump()}


def test_the_best_epoch_is_published_and_a_run_that_gets_no_better_stops(small: Small) -> None:
    """A learning rate that wrecks what is learnt after a good first epoch."""
    config, text = small
    config = changed(config, epochs=30, patience=2, schedule="constant", learning_rate=1.0, averaging=0.0, warmup=0.0)
    run = fitted(config, text)
    scores = [row["held_out"]["full_pass"] or 9 for row in run.state.history]
    best = scores.index(min(scores)) + 1
    assert len(scores) == best + 2 < 30
    version = publish.publish(run)
    for name, tensor in checkpoints.load(config.work_dir / f"ckpt_{best}.safetensors").items():
        np.testing.assert_array_equal(version.tensors[name], tensor)
    assert version.config.training["best_epoch"] == best


def test_where_nothing_is_held_out_the_last_epoch_is_published_without_a_score(small: Small) -> None:
    config, text = small
    version = published(changed(config, held_out=0.0), text)
    assert version.config.scores == artifact.PublishedScores()
    for name, tensor in checkpoints.load(config.work_dir / "ckpt_2.safetensors").items():
        np.testing.assert_array_equal(version.tensors[name], tensor)


def test_the_history_has_each_epoch(finished: Finished) -> None:
    _, text, version = finished("gru")
    first, second = json.loads((version.path / "training.json").read_text())["history"]
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert second["mean_loss"] < first["mean_loss"] < np.log(len(text.vocabulary)) + 0.1
    assert second["held_out"]["full_pass"] < first["held_out"]["full_pass"]
    assert second["learning_rate"] == pytest.approx(0, abs=1e-6)
    assert set(first["samples"]) == {"0.5", "1.0"}
    assert all(sample.startswith("To be") and len(sample) == 340 for sample in first["samples"].values())


def test_tensorboard_reads_the_run(finished: Finished) -> None:
    config, _, version = finished("gru")
    history = json.loads((version.path / "training.json").read_text())["history"]
    for file in (version.path / "events.out.tfevents", *(config.work_dir / "tensorboard").iterdir()):
        events = EventAccumulator(str(file))
        events.Reload()
        scores = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("loss/full_pass")]
        assert scores == pytest.approx([row["held_out"]["full_pass"] for row in history])
        steps = [event.step for event in events.Tensors("loss/training")]
        assert steps == sorted(set(steps))
        batches = (len(TEXT) - round(0.1 * len(TEXT)) - 1) // 80
        assert steps[-1] == 2 * batches


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(small: Small) -> None:
    config, text = small

    def weights(seed: int) -> dict[str, np.ndarray]:
        fitted(changed(config, seed=seed, epochs=1, held_out=0.0), text)
        return checkpoints.load(config.work_dir / "ckpt_1.safetensors")

    first, again, other = weights(5), weights(5), weights(6)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["embedding"], other["embedding"])


def test_the_state_is_carried_within_an_epoch_and_reset_at_its_start(small: Small) -> None:
    config, text = small
    run = loop.Run(config, text)
    (first, second, *_) = run.batches.epoch(1)
    assert not any(value.numpy().any() for state in run.state.recurrent for value in state)
    run.step(*first)
    after_one = run.state.recurrent
    run.step(*second)
    assert after_one[0][0].numpy().any()
    assert not np.array_equal(after_one[0][0], run.state.recurrent[0][0])
    run.end_epoch(run.evaluate(), run.sample())
    assert not any(value.numpy().any() for state in run.state.recurrent for value in state)


DEEP: dict[str, Any] = {"layers": 2, "scheduled_sampling": 0.3}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> loop.Run:
    """A run with those options that was trained in one go; it has published nothing."""
    with pytest.MonkeyPatch.context() as patch:
        shorten_samples(patch)
        return fitted(*prepare(tmp_path_factory.mktemp("whole"), **DEEP))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[int, SavedState | None]:
    """What the same run saves within an epoch, at its end, and in the next, by the number of batches that are done."""
    with pytest.MonkeyPatch.context() as patch:
        shorten_samples(patch)
        config, text = prepare(tmp_path_factory.mktemp("saved"), **DEEP)
        run, states = loop.Run(config, text), {}
        for done in range(1, 11):
            run.step(*next(iter(run.batches.epoch(run.state.epoch, run.state.batch))))
            if run.state.batch == len(run.batches):
                run.end_epoch(run.evaluate(), run.sample())
            if done in (1, 9, 10):
                run.save()
                states[done] = checkpoints.load_state(config.work_dir)
        return states


def assert_same(resumed: loop.Run, whole: loop.Run) -> None:
    for name, weight in whole.state.weights.items():
        np.testing.assert_array_equal(resumed.state.weights[name].numpy(), weight.numpy(), err_msg=name)
        np.testing.assert_array_equal(resumed.state.ema_weights[name].numpy(), whole.state.ema_weights[name].numpy())
    assert [untimed(row) for row in resumed.state.history] == [untimed(row) for row in whole.state.history]


@pytest.mark.parametrize("stop_at", [1, 9, 10], ids=["within an epoch", "at its end", "in the next"])
def test_a_run_resumes_bit_for_bit(small: Small, whole: loop.Run, saved: dict[int, SavedState | None], stop_at: int) -> None:
    config, text = small
    assert len(whole.batches) == 9
    state = saved[stop_at]
    assert state is not None
    assert (state.progress["epoch"], state.progress["batch"]) == divmod(stop_at + 9, 9)
    assert_same(fitted(changed(config, **DEEP), text, saved=state), whole)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_interrupted_while_it_is_scored_has_saved_its_last_batch(
    small: Small, whole: loop.Run, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    config, text = small
    config = changed(config, **DEEP)
    scores, stop, scored = Evaluator.scores, Event(), []

    def interrupted(self: Evaluator, *arguments: Any, **options: Any) -> artifact.Scores:
        scored.append(True)
        if len(scored) == epoch:
            stop.set()
        return scores(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "scores", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fitted(config, text, stop)
    progress = checkpoints.load_progress(config.work_dir)
    assert progress is not None
    assert (progress["epoch"], progress["batch"]) == (epoch, len(whole.batches))
    assert_same(fitted(config, text, saved=checkpoints.load_state(config.work_dir)), whole)


def test_a_run_interrupted_while_it_is_scored_as_served_publishes_when_it_is_resumed(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, text = small
    stop = Event()

    def stopped(*arguments: Any) -> artifact.Scores:
        stop.set()
        return served_scores(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(publish, "served_scores", stopped)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, text, stop)
    assert artifact.versions(config.models_dir / "small") == []
    resumed = loop.train(config, text, saved=checkpoints.load_state(config.work_dir))
    assert resumed is not None
    assert resumed.config.scores.as_served is not None


def untimed(row: EpochRow) -> dict[str, object]:
    return {name: value for name, value in row.items() if name not in ("seconds", "characters_per_second")}


def test_a_run_killed_between_publishing_and_deleting_its_state_publishes_once(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, text = small

    def killed(_: Path) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "delete_state", killed)
        with pytest.raises(SystemExit):
            loop.train(config, text)
    version = loop.train(config, text, saved=checkpoints.load_state(config.work_dir))
    assert version is not None
    assert artifact.versions(config.models_dir / "small") == [1] == [version.config.version]
    assert checkpoints.load_progress(config.work_dir) is None
    again = loop.train(changed(config, epochs=1), text)
    assert again is not None
    assert again.config.version == 2, "another run publishes its own"


@pytest.mark.parametrize("others", [3, 1], ids=["more layers", "fewer"])
def test_a_run_resumed_at_its_end_publishes_beside_a_newer_version_of_another_shape(
    small: Small, whole: loop.Run, others: int
) -> None:
    """One with fewer layers, though their weights be the very same, is another network too."""
    config, text = small
    config = changed(config, **DEEP)
    shutil.copytree(whole.config.work_dir, config.work_dir, dirs_exist_ok=True)
    learnt = checkpoints.load(checkpoints.path(config.work_dir, best_epoch(whole.state.history)))
    shape = changed(config, layers=others).architecture(text.vocabulary.characters)
    tensors = {**random_tensors(shape), **learnt}
    artifact.publish(config.models_dir, fields(shape, "small"), {name: tensors[name] for name in shape.tensor_shapes}, {})
    version = loop.train(config, text, saved=checkpoints.load_state(config.work_dir))
    assert version is not None
    assert version.config.version == 2
    assert version.config.layers == 2


def test_a_run_that_diverges_fails_and_keeps_the_last_good_state(small: Small) -> None:
    """A step that ruins the weights shows in the loss of the next: what is saved in between must not be ruined too."""
    config, text = small
    good = changed(config, schedule="constant", save_every=2, learning_rate=0.01)
    run = loop.Run(good, text)
    for inputs, targets in itertools.islice(run.batches.epoch(1), 2):
        run.step(inputs, targets)
    for save_every in (2, 100):
        run.save()
        state = checkpoints.load_state(config.work_dir)
        with pytest.raises(Diverged, match=r"is not a number a.* batch \d+ of epoch 1$"):
            fitted(changed(good, learning_rate=3e38, clip_norm=0.0, save_every=save_every), text, saved=state)
        kept = checkpoints.load_state(config.work_dir)
        assert kept is not None
        assert all(np.isfinite(tensor).all() for tensor in kept.tensors.values())
        fitted(good, text, saved=kept)  # a smaller one, given anew, counts


def test_an_epochs_curve_has_at_most_fifty_points() -> None:
    assert history.thin([1.0]) == [1.0]
    assert history.thin([float(i) for i in range(100)])[:2] == [0.5, 2.5]
    assert len(history.thin([1.0] * 10_001)) <= 50


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_losses_speed_and_time_left() -> None:
    log, terminal = io.StringIO(), Terminal()
    row: EpochRow = {
        "epoch": 1,
        "last_loss": 2.2,
        "mean_loss": 2.25,
        "learning_rate": 0.001,
        "held_out": {"full_pass": 1.5, "cold_256": 1.6},
        "seconds": 12.34,
        "characters_per_second": 1000.0,
        "losses": [2.25],
        "samples": {"0.5": "ROMEO:\n"},
    }
    for stream in (log, terminal):
        progress = report.ProgressLine(epochs=2, batches=150, characters=6400, stream=stream)
        for epoch in (1, 2):
            for batch in range(1, 151):
                progress.step(epoch, batch, 2.5)
            if epoch == 1:
                progress.epoch(row)
    lines = log.getvalue().splitlines()
    assert [line.split("  loss")[0] for line in lines] == [
        "epoch 1/2  batch 1/150", "epoch 1/2  batch 100/150", "epoch 1/2", r"  temperature 0.5: 'ROMEO:\n'",
        "epoch 2/2  batch 1/150", "epoch 2/2  batch 100/150",
    ]  # fmt: skip
    assert "loss 2.5000" in lines[0]
    assert "characters/s" in lines[0]
    assert lines[0].endswith("left")
    assert lines[2] == "epoch 1/2  loss 2.2500  held out: full pass 1.5000, cold 256 1.6000  0:00:12"
    assert "held out 1.5000" in lines[4]
    assert terminal.getvalue().count("\r\033[K") == 301
    assert terminal.getvalue().count("\n") == 2


def test_the_published_weights_continue_the_sample(finished: Finished) -> None:
    config, _, version = finished("gru")
    sample = (version.path / "sample.txt").read_text()
    assert Generator.load(version.path).generate(sample[:40], num_generate=100, seed=config.seed) == sample[:140]
