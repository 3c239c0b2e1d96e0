"""Runs that learn from what published versions write."""

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

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_samples")]

TEXT = "To be, or not to be, that is the question:\n" * 20
SMALL = ["--batch-size", "16", "--seq-length", "5", "--units", "16", "--embedding", "8", "--epochs", "2"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "play.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def teachers(tmp_path: Path) -> list[Version]:
    """Two networks of other shapes than the student."""
    shapes: list[dict[str, Any]] = [
        {"cell": "lstm", "layers": 2, "units": 12, "embedding": 8},
        {"cell": "gru", "layers": 1, "units": 24, "embedding": 4},
    ]
    found = []
    for seed, shape in enumerate(shapes):
        architecture = Architecture(**shape, vocabulary=sorted(set(TEXT)))
        config = fields(architecture, f"teacher-{seed}")
        found.append(artifact.publish(tmp_path / "models", config, random_tensors(architecture, seed), {}))
    return found


def run(tmp_path: Path, *arguments: object) -> int:
    return main([str(argument) for argument in ("--models-dir", tmp_path / "models", *arguments)])


def paths(versions: list[Version]) -> list[Path]:
    return [version.path for version in versions]


def test_a_student_learns_what_its_teachers_predict(tmp_path: Path, text: Path, teachers: list[Version]) -> None:
    """Two uniform teachers make a uniform student, although its own text is anything but uniform."""
    for version in teachers:
        tensors = {name: np.zeros_like(tensor) for name, tensor in version.tensors.items()}
        shutil.rmtree(version.path)
        artifact.publish(tmp_path / "models", fields(version.config, version.config.name), tensors, {})
    options = ["--text-share", "0", "--epochs", "12", "--held-out", "0.1", "--averaging", "0"]
    assert run(tmp_path, "--corpus", text, "--teacher", *paths(teachers), *SMALL, *options) == 0
    version = artifact.read(tmp_path / "models" / "play" / "1")
    assert version.config.scores.cold_256 == pytest.approx(np.log(len(version.config.vocabulary)), abs=0.02)
    history = json.loads((version.path / "training.json").read_text())["history"]
    assert history[-1]["mean_loss"] == pytest.approx(np.log(len(version.config.vocabulary)), abs=0.02)


def test_config_json_says_who_taught_and_how(tmp_path: Path, text: Path, teachers: list[Version]) -> None:
    """The names may be given in one flag or in several, with or without a version's number."""
    named = ["--teacher", teachers[0].path, "--teacher", teachers[1].path.parent]
    assert run(tmp_path, "--corpus", text, *named, *SMALL, "--text-share", "0.3") == 0
    config = artifact.read(tmp_path / "models" / "play" / "1").config
    assert (config.recipe, config.cell, config.layers, config.units) == ("student", "gru", 1, 16)
    assert config.training["teacher"] == [
        {"name": version.config.name, "version": 1, "weights_sha256": version.config.sha256.weights} for version in teachers
    ]
    assert (config.training["text_share"], config.training["teachers_at_a_time"]) == (0.3, 2)
    assert [config.training[name] for name in ("weight_drop", "output_dropout", "embedding_dropout")] == [0, 0, 0]


def test_a_student_that_was_stopped_ends_with_the_weights_of_one_left_alone(
    tmp_path: Path, text: Path, teachers: list[Version]
) -> None:
    def begin(models: str) -> tuple[TrainingConfig, corpus.Corpus]:
        options: dict[str, Any] = {"batch_size": 16, "seq_length": 5, "epochs": 2, "units": 16, "embedding": 8}
        config = TrainingConfig(corpus=[text], name="play", models_dir=tmp_path / models, teacher=paths(teachers), **options)
        config.work_dir.mkdir(parents=True)
        return config, corpus.read(config.corpus, config.work_dir)

    whole = loop.train(*begin("whole"), teachers=teachers)
    assert whole is not None

    interrupted = loop.Run(*begin("begun"), teachers=teachers)
    for batch in interrupted.batches.epoch(1):
        interrupted.step(*batch)
        interrupted.save()
        shutil.copytree(interrupted.config.models_dir, tmp_path / f"stopped-at-{interrupted.state.batch}")

    moved = [shutil.move(version.path, tmp_path / f"moved-{i}") for i, version in enumerate(teachers)]
    for stopped_at in (1, 4, len(interrupted.batches)):
        models = tmp_path / f"stopped-at-{stopped_at}"
        assert main(["--resume", "--models-dir", str(models), "--corpus", str(text), "--teacher", *map(str, moved)]) == 0
        resumed = artifact.read(models / "play" / "1")
        assert resumed.config.training == whole.config.training
        for name, tensor in whole.tensors.items():
            np.testing.assert_array_equal(resumed.tensors[name], tensor, err_msg=f"{name}, stopped at {stopped_at}")


def test_a_run_is_resumed_with_the_teachers_that_it_began_with(
    tmp_path: Path, text: Path, teachers: list[Version], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--corpus", text, "--teacher", *paths(teachers), *SMALL]
    config = TrainingConfig(
        corpus=[text], name="play", models_dir=tmp_path / "models", teacher=paths(teachers), batch_size=16, seq_length=5, units=16
    )
    config.work_dir.mkdir(parents=True)
    begun = loop.Run(config, corpus.read(config.corpus, config.work_dir), teachers=teachers)
    begun.save()
    named, reversed_ = "teacher-0/1, teacher-1/1", "teacher-1/1, teacher-0/1"
    for given, message in (
        (
            ["--teacher", *reversed(paths(teachers))],
            f"the interrupted run learns from {named}, in this order; given are {reversed_}",
        ),
        (["--teacher", "gone"], "--teacher: gone/config.json: No such file"),
        (["--text-share", "0.9"], "--text-share: the interrupted run was started with 0.3"),
    ):
        assert run(tmp_path, "--resume", "--corpus", text, *given) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
        assert checkpoints.load_progress(config.work_dir) is not None, "nothing is lost"
    assert run(tmp_path, *options) == 2
    assert "continue it with --resume, or discard it with --fresh" in capsys.readouterr().err
    assert run(tmp_path, "--resume", "--corpus", text, "--recipe", "student", "--text-share", "0.3") == 0


def test_a_run_of_its_own_knows_no_teachers(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainingConfig(corpus=[text], name="play", models_dir=tmp_path / "models", batch_size=16, seq_length=5, units=16)
    config.work_dir.mkdir(parents=True)
    loop.Run(config, corpus.read(config.corpus, config.work_dir)).save()
    assert run(tmp_path, "--resume", "--corpus", text, "--teacher", "x") == 2
    assert "--teacher: the interrupted run was started without teachers" in capsys.readouterr().err


def test_a_run_that_was_killed_while_its_teacher_got_a_new_version_is_resumed_with_the_old_one(
    tmp_path: Path, text: Path, teachers: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    folder = teachers[0].path.parent
    options = ["--corpus", text, "--teacher", folder, "--init-from", teachers[1].path, "--batch-size", "16", "--seq-length", "5"]
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "evaluate", killed)
        assert run(tmp_path, *options, "--epochs", "2") == 130
    newer = artifact.publish(
        tmp_path / "models", fields(teachers[0].config, "teacher-0"), random_tensors(teachers[0].config, 7), {}
    )
    assert newer.path.parent == folder
    shutil.rmtree(teachers[1].path)  # no longer needed: its weights are in the state
    assert run(tmp_path, "--resume", "--corpus", text) == 0
    training = artifact.read(tmp_path / "models" / "play" / "1").config.training
    assert training["teacher"] == [teachers[0].reference]
    assert training["init_from"]["weights_sha256"] == teachers[1].config.sha256.weights


@pytest.mark.parametrize(
    ("characters", "message"),
    [
        (sorted(set(TEXT) - {"q"}), "does not have the text's vocabulary: it lacks 'q'"),
        (sorted({*TEXT, "Z", "ä"}), "does not have the text's vocabulary: it also has 'Z', 'ä'"),
        (sorted({*TEXT, "Z"} - {"q"}), "does not have the text's vocabulary: it lacks 'q' and also has 'Z'"),
        (sorted(set(TEXT), reverse=True), "does not have the text's vocabulary: it has another order"),
    ],
)
def test_a_teacher_of_another_vocabulary_is_refused(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str], characters: list[str], message: str
) -> None:
    architecture = Architecture(cell="gru", layers=1, units=4, embedding=4, vocabulary=characters)
    teacher = artifact.publish(tmp_path / "models", fields(architecture, "other"), random_tensors(architecture), {})
    assert run(tmp_path, "--corpus", text, "--teacher", teacher.path, *SMALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--teacher: {teacher.path} {message}" in line
    assert not (tmp_path / "models" / "play").exists()


def test_a_teacher_that_has_seen_what_is_held_out_is_refused(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    architecture = Architecture(cell="gru", layers=1, units=4, embedding=4, vocabulary=sorted(set(TEXT)))
    sha256 = corpus.read([text], tmp_path).sha256
    config = fields(architecture, "other", training={"held_out": 0.05}, sha256={"corpus": sha256})
    teacher = artifact.publish(tmp_path / "models", config, random_tensors(architecture), {})
    assert run(tmp_path, "--corpus", text, "--teacher", teacher.path, *SMALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--teacher: {teacher.path} was trained on a part of what this run holds out" in line
    assert "give --held-out 0.05, or a version that held out 0.1" in line
    assert run(tmp_path, "--corpus", text, "--teacher", teacher.path, *SMALL, "--held-out", "0.05") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "student"], "--recipe student needs --teacher, and --teacher needs --recipe student"),
        (["--recipe", "tutorial", "--teacher", "x"], "--recipe student needs --teacher, and --teacher needs --recipe student"),
        (["--text-share", "0.5"], "--text-share needs --teacher; remove this option"),
        (["--teachers-at-a-time", "1"], "--teachers-at-a-time needs --teacher; remove this option"),
        (["--teacher", "x", "--examples", "windows"], "--examples: teachers write streams; remove this option"),
        (["--teacher", "x", "--scheduled-sampling", "0.5"], "--scheduled-sampling: "),
        (["--teacher", "absent"], "--teacher: absent/config.json: No such file or directory"),
        (["--teacher", "x", "--teachers-at-a-time", "0"], "--teachers-at-a-time: Input should be greater than or equal to 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run(tmp_path, "--corpus", text, *SMALL, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_same_teacher_twice_is_refused(
    tmp_path: Path, text: Path, teachers: list[Version], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--corpus", text, *SMALL, "--teacher", teachers[0].path, teachers[1].path, teachers[0].path.parent) == 2
    assert f"--teacher: {teachers[0].path} is given twice" in capsys.readouterr().err


def test_teachers_come_from_the_environment_too(
    tmp_path: Path, text: Path, teachers: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINER_TEACHER", json.dumps([str(path) for path in paths(teachers)]))
    assert run(tmp_path, "--corpus", text, *SMALL) == 0
    assert artifact.read(tmp_path / "models" / "play" / "1").config.recipe == "student"
