import io
import itertools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from trainer import artifact, checkpoints, corpus, loop, network, report
from trainer.config import TrainingConfig
from trainer.corpus import Corpus

SMALL = {"units": 16, "embedding": 8, "batch_size": 4, "seq_length": 20, "epochs": 2}
TEXT = "To be, or not to be, that is the question:\n" * 20


@pytest.fixture
def small(tmp_path: Path) -> tuple[TrainingConfig, Corpus]:
    (tmp_path / "text").write_text(TEXT)
    config = TrainingConfig(corpus=[tmp_path / "text"], models_dir=tmp_path / "models", name="small", **SMALL)  # type: ignore[arg-type]
    config.work_dir.mkdir(parents=True)
    return config, corpus.read(config.corpus, config.work_dir)


def fitted(config: TrainingConfig, text: Corpus) -> checkpoints.Checkpoint:
    loop.fit(config, text)
    last = checkpoints.latest(config.work_dir)
    assert last is not None
    return checkpoints.load(last)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_run_publishes_its_last_epoch_with_all_that_people_look_at(small: tuple[TrainingConfig, Corpus], cell: str) -> None:
    config, text = small
    config = config.model_copy(update={"cell": cell})
    version = loop.train(config, text)
    assert version.path == config.models_dir / "small" / "1"
    assert sorted(path.name for path in version.path.iterdir()) == [
        "config.json", "loss.png", "sample.txt", "training.json", "weights.safetensors",
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
    assert version.config.scores.full_pass is None
    last = checkpoints.latest(config.work_dir)
    assert last == config.work_dir / "ckpt_2.safetensors"
    for name, tensor in checkpoints.load(last).weights.items():
        np.testing.assert_array_equal(version.tensors[name], tensor)


def test_each_epoch_leaves_a_checkpoint_that_holds_the_history(small: tuple[TrainingConfig, Corpus]) -> None:
    config, text = small
    loop.fit(config, text)
    first, second = (checkpoints.load(config.work_dir / f"ckpt_{epoch}.safetensors") for epoch in (1, 2))
    assert first.progress["epoch"] == 1
    assert second.progress["history"][0] == first.progress["history"][0]
    assert second.progress["history"][1]["mean_loss"] < first.progress["history"][0]["mean_loss"]
    assert not np.array_equal(first.weights["embedding"], second.weights["embedding"])
    steps = len(TEXT) // 21 // 4
    assert int(second.optimizer[0]) == 2 * steps


def test_the_latest_checkpoint_is_the_highest_epochs_not_the_last_by_name(tmp_path: Path) -> None:
    assert checkpoints.latest(tmp_path) is None
    for epoch in (2, 10, 9):
        checkpoints.save(tmp_path, epoch, checkpoints.Checkpoint({}, [np.zeros(1)], {}))
    (tmp_path / "ckpt_99.part").write_text("cut off")
    assert checkpoints.latest(tmp_path) == tmp_path / "ckpt_10.safetensors"


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(small: tuple[TrainingConfig, Corpus]) -> None:
    config, text = small

    def weights(seed: int) -> dict[str, Any]:
        return fitted(config.model_copy(update={"seed": seed, "epochs": 1}), text).weights

    first, again, other = weights(5), weights(5), weights(6)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["embedding"], other["embedding"])


def test_the_state_is_reset_at_each_epochs_start(small: tuple[TrainingConfig, Corpus]) -> None:
    """One batch an epoch holds every example, and nothing is learnt: epochs differ in loss only if a state was left over."""
    config, text = small
    count = corpus.examples(len(text.ids), config.seq_length)
    nothing_learnt = config.model_copy(update={"batch_size": count, "learning_rate": 1e-30, "epochs": 3})
    history = fitted(nothing_learnt, text).progress["history"]
    assert [row["last_loss"] for row in history] == pytest.approx([history[0]["last_loss"]] * 3, abs=1e-6)

    model = network.build(config.architecture(text.vocabulary.characters), count)
    (inputs, targets), *_ = corpus.batches(text.ids, seq_length=config.seq_length, batch_size=count, seed=0)
    step = loop.training_step(model, keras.optimizers.Adam(1e-30))
    assert float(step(inputs, targets)) != pytest.approx(float(step(inputs, targets)), abs=1e-6), "a left-over state would show"


def test_a_loss_that_is_no_number_stops_the_run_with_a_word(small: tuple[TrainingConfig, Corpus]) -> None:
    config, text = small
    with pytest.raises(loop.Diverged, match=r"not a number at batch \d+ of epoch 1; try a smaller --learning-rate"):
        loop.fit(config.model_copy(update={"learning_rate": 1e38}), text)
    assert checkpoints.latest(config.work_dir) is None


def test_an_epochs_curve_has_at_most_fifty_points() -> None:
    assert loop._thinned([1.0]) == [1.0]
    assert loop._thinned([float(i) for i in range(100)])[:2] == [0.5, 2.5]
    assert len(loop._thinned([1.0] * 10_001)) <= 50


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_loss_speed_and_time_left() -> None:
    log, terminal = io.StringIO(), Terminal()
    for stream in (log, terminal):
        progress = report.Progress(epochs=2, steps=150, characters=6400, stream=stream)
        for epoch, batch in itertools.product((1, 2), range(150)):
            progress.step(epoch, batch, 2.5)
        progress.epoch(2, 2.25, 12.34)
    lines = log.getvalue().splitlines()
    assert [line.split("  loss")[0] for line in lines[:4]] == [
        "epoch 1/2  batch 0/150", "epoch 1/2  batch 100/150", "epoch 2/2  batch 0/150", "epoch 2/2  batch 100/150",
    ]  # fmt: skip
    assert "loss 2.5000" in lines[0]
    assert "characters/s" in lines[0]
    assert lines[0].endswith("left")
    assert lines[4] == "epoch 2/2  loss 2.2500  12.3 s"
    assert terminal.getvalue().count("\r\033[K") == 301
    assert terminal.getvalue().count("\n") == 1


def test_a_published_network_of_batch_size_one_continues_the_sample(small: tuple[TrainingConfig, Corpus]) -> None:
    config, text = small
    version = loop.train(config, text)
    single = network.build(artifact.read(version.path).config, batch_size=1)
    network.load(single, version.tensors)
    sample = (version.path / "sample.txt").read_text()
    again = report.sample(single, text.vocabulary, sample[:40], characters=100, temperature=1.0, seed=config.seed)
    assert again == sample[:140]
