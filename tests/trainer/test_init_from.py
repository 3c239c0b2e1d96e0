"""Runs that start from a published version's weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import config as fields
from tests.support import random_tensors
from trainer import artifact, checkpoints, corpus, loop
from trainer.__main__ import main
from trainer.artifact import Architecture, Version
from trainer.config import TrainingConfig
from trainer.options import read_options
from trainer.state import CHARACTER_AXIS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_samples")]

TEXT = "To be, or not to be, that is the question:\n" * 20
OTHER = "Être, ou ne pas être, telle est la question:\n" * 20
BATCHES = ["--batch-size", "16", "--seq-length", "5"]
SHAPE: dict[str, Any] = {"cell": "lstm", "layers": 2, "units": 16, "embedding": 8}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.txt"
    path.write_text(OTHER)
    return path


@pytest.fixture
def mine(tmp_path: Path) -> Version:
    """models/mine/1, its vocabulary in no order."""
    shape = Architecture(**SHAPE, vocabulary=sorted(set(TEXT), reverse=True))
    return artifact.publish(tmp_path / "models", fields(shape, "mine"), random_tensors(shape), {})


def run(tmp_path: Path, *arguments: object) -> int:
    return main([str(argument) for argument in ("--models-dir", tmp_path / "models", *BATCHES, *arguments)])


@pytest.mark.parametrize("named", ["mine", "mine/1"])
def test_a_run_starts_from_a_versions_weights_and_records_it(tmp_path: Path, other: Path, mine: Version, named: str) -> None:
    """A learning rate that changes nothing shows what it started from."""
    still = ["--learning-rate", "1e-30", "--weight-decay", "0", "--epochs", "1", "--held-out", "0"]
    assert run(tmp_path, "--corpus", other, "--init-from", tmp_path / "models" / named, *still) == 0
    version = artifact.read(tmp_path / "models" / "other" / "1")
    assert {name: getattr(version.config, name) for name in SHAPE} == SHAPE
    assert version.config.vocabulary == sorted(set(TEXT) | set(OTHER))
    assert version.config.training["init_from"] == {
        "name": "mine",
        "version": 1,
        "weights_sha256": mine.config.sha256.weights,
    }
    places = [version.config.vocabulary.index(character) for character in mine.config.vocabulary]
    for name, tensor in mine.tensors.items():
        axis = CHARACTER_AXIS.get(name)
        found = version.tensors[name] if axis is None else version.tensors[name].take(places, axis)
        np.testing.assert_allclose(found, tensor, atol=1e-6, err_msg=name)
    new = [i for i in range(len(version.config.vocabulary)) if i not in places]
    assert new
    assert version.tensors["embedding"][new].any(1).all()
    assert np.abs(version.tensors["embedding"][new]).max() <= 0.05, "drawn as a new network's"
    np.testing.assert_allclose(version.tensors["dense.bias"][new], 0, atol=1e-6)


def test_a_resumed_run_does_not_need_the_version(tmp_path: Path, other: Path, mine: Version) -> None:
    def begin(models: str) -> tuple[TrainingConfig, corpus.Corpus]:
        options = {"models_dir": tmp_path / models, "batch_size": 16, "seq_length": 5, "epochs": 2, **SHAPE}
        config = TrainingConfig(corpus=[other], name="other", init_from=mine.path, **options)
        config.work_dir.mkdir(parents=True)
        return config, corpus.read(config.corpus, config.work_dir, known=mine.config.vocabulary)

    whole = loop.train(*begin("whole"), init=mine)
    assert whole is not None

    config, text = begin("begun")
    run = loop.Run(config, text)
    run.state.start_from(mine, text.vocabulary.characters)
    for batch, _ in zip(run.batches.epoch(1), range(3), strict=False):
        run.step(*batch)
        run.save()
        shutil.copytree(config.models_dir, tmp_path / f"stopped-at-{run.state.batch}")

    shutil.rmtree(mine.path)
    for stop_at in (1, 3):
        models = tmp_path / f"stopped-at-{stop_at}"
        assert main(["--resume", "--models-dir", str(models), "--corpus", str(other)]) == 0
        resumed = artifact.read(models / "other" / "1")
        assert resumed.config.vocabulary == whole.config.vocabulary
        assert resumed.config.training == whole.config.training
        for name, tensor in whole.tensors.items():
            np.testing.assert_array_equal(resumed.tensors[name], tensor, err_msg=name)


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [("units", 8, "has 16"), ("layers", 1, "has 2"), ("cell", "gru", "lstm"), ("embedding", 4, "has 8")],
)
def test_another_architecture_than_the_versions_is_refused(
    tmp_path: Path, other: Path, mine: Version, capsys: pytest.CaptureFixture[str], option: str, value: object, word: str
) -> None:
    assert run(tmp_path, "--corpus", other, "--init-from", mine.path, f"--{option}", value) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--{option}: {mine.path}, given with --init-from, has" in line
    assert word in line
    assert f"remove --{option}" in line


def test_without_a_text_the_versions_own_must_be_at_hand(tmp_path: Path, mine: Version, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--init-from", mine.path) == 2
    assert "its corpus does not come with this package; give a text to train on with --corpus FILE" in capsys.readouterr().err
    assert artifact.versions(tmp_path / "models" / "mine") == [1]
    assert run(tmp_path, "--init-from", tmp_path / "absent") == 1
    assert "absent/config.json: No such file" in capsys.readouterr().err


def test_a_version_that_has_seen_what_is_held_out_is_refused(
    tmp_path: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = Architecture(**SHAPE, vocabulary=sorted(set(OTHER)))
    config = fields(shape, "mine", sha256={"corpus": corpus.read([other], tmp_path).sha256})
    version = artifact.publish(tmp_path / "models", config, random_tensors(shape), {})
    assert run(tmp_path, "--corpus", other, "--init-from", version.path, "--epochs", "1") == 2
    assert f"--init-from: {version.path} was trained on a part of what this run holds out" in capsys.readouterr().err
    assert run(tmp_path, "--corpus", other, "--init-from", version.path, "--epochs", "1", "--held-out", "0") == 0


def test_a_version_in_a_folder_that_is_no_models_name_needs_a_name(
    tmp_path: Path, mine: Version, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(mine.path.parent, tmp_path / "backup (1)")
    assert run(tmp_path, "--init-from", copy) == 2
    assert "--init-from: 'backup (1)' cannot be the name of a model; give one with --name" in capsys.readouterr().err
    for path, name in ((mine.path / "..", "mine"), (mine.path, "mine"), (copy.rename(tmp_path / "1984"), "1984")):
        assert read_options(["--init-from", str(path)]).config.name == name


def test_resuming_a_finished_run_says_how_to_train_it_further(
    tmp_path: Path, mine: Version, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--name", "mine", "--resume") == 2
    errors = capsys.readouterr().err
    assert f"it finished, and its newest version is {mine.path}; train that further with --init-from {mine.path}" in errors
    assert "start with --fresh" in errors


def test_a_run_of_an_earlier_release_resumes_with_the_line_endings_that_it_read(tmp_path: Path, other: Path) -> None:
    """What is saved then has neither `newlines` nor `init_from` nor the vocabulary."""
    other.write_bytes(OTHER.replace("\n", "\r\n").encode())
    options: dict[str, Any] = {
        "corpus": [other],
        "models_dir": tmp_path / "models",
        "name": "other",
        "newlines": "keep",
        "epochs": 1,
    }
    config = TrainingConfig(**options, batch_size=16, seq_length=5, units=16, embedding=8)
    config.work_dir.mkdir(parents=True)
    run = loop.Run(config, corpus.read(config.corpus, config.work_dir, "keep"))
    for batch in run.batches.epoch(1):
        run.step(*batch)
    run.save()
    state = checkpoints.load_state(config.work_dir)
    assert state is not None
    progress = json.loads(json.dumps(state.progress))
    for name in ("vocabulary", "init_from"):
        del progress[name]
    for name in ("newlines", "init_from", "teacher", "teachers_at_a_time", "text_share"):
        del progress["config"][name]
    checkpoints.save_state(config.work_dir, checkpoints.SavedState(state.tensors, progress))
    resume = ["--resume", "--models-dir", str(tmp_path / "models"), "--name", "other"]
    assert main([*resume, "--text-share", "0.3"]) == 2, "which needs teachers"
    assert main(resume) == 0
    assert "\r" in artifact.read(tmp_path / "models" / "other" / "1").config.vocabulary
