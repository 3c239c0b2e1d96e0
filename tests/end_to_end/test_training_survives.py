"""Runs of `python -m trainer` that something happens to: killed, interrupted, out of disk, told again. Real processes."""

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.end_to_end.conftest import StartTrainer, trainers
from tests.support import publish, wait_until
from trainer import artifact
from trainer.__main__ import main
from trainer.artifact import Architecture
from trainer.checkpoints import STATE, load_progress
from trainer.program import invocation

Told = Callable[..., tuple[int, str, str]]

TRAIN = " ".join(invocation("train"))
SMALL = ["--units", "32", "--embedding", "8", "--batch-size", "16", "--seq-length", "5", "--save-every", "3"]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """told(models, *arguments): (exit code, output, errors) of `python -m trainer` in this process, which is there already."""

    def told(models: Path, *arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(part) for part in ("--models-dir", models, "--name", "play", *arguments)])
        return code, *capsys.readouterr()

    return told


def saved(models: Path) -> Path:
    return models / "play" / ".training" / STATE


def wait_for_another_save(models: Path, process: "subprocess.Popen[str]") -> None:
    """Or for the end of the run."""

    def when() -> int:
        try:
            return saved(models).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    before = when()
    wait_until(lambda: when() != before or process.poll() is not None, seconds=300)


@pytest.mark.parametrize("taught", [False, True], ids=["by the text", "by teachers"])
def test_a_run_killed_again_and_again_ends_with_the_weights_of_one_left_alone(
    tmp_path: Path, text: Path, start: StartTrainer, *, taught: bool
) -> None:
    options = ["--corpus", text, *SMALL, "--epochs", "3"]
    if taught:
        shape = Architecture(cell="gru", layers=1, units=24, embedding=8, vocabulary=sorted(set(text.read_text())))
        options += ["--teacher", *(publish(tmp_path, f"teacher-{seed}", seed, shape).path for seed in range(3))]
    left_alone = start(tmp_path / "alone", *options)
    models, rng, places = tmp_path / "killed", random.Random(5), list[tuple[int, int]]()
    process = start(models, *options)
    for _ in range(20):
        for _ in range(rng.randint(1, 6)):
            wait_for_another_save(models, process)
        time.sleep(rng.uniform(0, 0.05))  # in the middle of a save, or between two
        process.kill()
        process.communicate()
        progress = load_progress(models / "play" / ".training")
        if progress is None:  # on a busy machine a run may end before it is killed
            shutil.rmtree(models)
            places.clear()
            process = start(models, *options)
            continue
        places.append((progress["epoch"], progress["batch"]))
        process = start(models, "--resume")
        if len(places) == 2:
            break
    assert len(places) == 2, "each run was killed too late"
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert len(set(places)) > 1, "it got on between kills"
    _, errors = left_alone.communicate(timeout=300)
    assert (left_alone.returncode, errors) == (0, ""), "TensorFlow has nothing to say of a run that goes well"

    alone, killed = (artifact.read(folder / "play" / "1") for folder in (tmp_path / "alone", models))
    for name, tensor in alone.tensors.items():
        np.testing.assert_array_equal(killed.tensors[name], tensor, err_msg=f"{name}, killed at {places}")
    assert killed.config.scores == alone.config.scores
    assert not saved(models).exists()


class Interrupted(NamedTuple):
    """A run that got a signal in its second epoch, and how it ended."""

    models: Path
    code: int
    errors: str


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, text: Path) -> dict[signal.Signals, Interrupted]:
    """By the signal."""
    numbers = {number: tmp_path_factory.mktemp(number.name) for number in (signal.SIGINT, signal.SIGTERM)}
    with trainers() as start:
        endless = ("--corpus", text, *SMALL, "--epochs", "3000", "--patience", "0")
        runs = {number: start(models, *endless) for number, models in numbers.items()}
        for number, process in runs.items():
            assert process.stdout is not None
            while "epoch 2/" not in process.stdout.readline():
                assert process.poll() is None
            process.send_signal(number)
        errors = {number: process.communicate(timeout=300)[1] for number, process in runs.items()}
        return {number: Interrupted(models, runs[number].returncode, errors[number]) for number, models in numbers.items()}


@pytest.fixture
def models(tmp_path: Path, interrupted: dict[signal.Signals, Interrupted]) -> Path:
    """This test's own copy of a run that SIGTERM interrupted."""
    return shutil.copytree(interrupted[signal.SIGTERM].models, tmp_path / "models")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_and_says_how_to_go_on(
    interrupted: dict[signal.Signals, Interrupted], number: signal.Signals
) -> None:
    models, code, errors = interrupted[number]
    assert code == 130
    progress = load_progress(models / "play" / ".training")
    assert progress is not None
    assert errors.splitlines()[-1] == (
        f"python -m trainer: error: interrupted; saved after batch {progress['batch']} of epoch {progress['epoch']}; "
        f"resume with `{TRAIN} --resume --name play --models-dir {models}`"
    )


def test_an_interrupted_run_goes_on_as_it_was_begun(
    tmp_path: Path, text: Path, interrupted: dict[signal.Signals, Interrupted], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = shutil.copytree(interrupted[signal.SIGINT].models, tmp_path / "models")
    progress = load_progress(models / "play" / ".training")
    assert progress is not None
    code, _, errors = told(models, "--corpus", text, *SMALL)
    assert code == 2, "begun anew, it would lose what there is"
    assert f"was interrupted in epoch {progress['epoch']} of 3000; continue it with --resume, or discard it with --fresh" in errors

    for flags, variable in ((["--units", "33"], None), ([], "33")):
        with monkeypatch.context() as patch:
            if variable:
                patch.setenv("TRAINER_UNITS", variable)
            code, _, errors = told(models, "--resume", *flags)
        assert code == 2
        assert "--units: the interrupted run was started with 32; remove this option" in errors

    other = tmp_path / "other.txt"
    other.write_text(text.read_text().upper())
    code, _, errors = told(models, "--resume", "--corpus", other)
    assert code == 2
    assert "other.txt: not the text that the interrupted run was trained on" in errors

    code, output, errors = told(models, "--resume", "--epochs", progress["epoch"])
    assert code == 0, errors
    assert "published" in output
    assert artifact.read(models / "play" / "1").config.units == 32

    code, _, errors = told(models, "--resume")
    assert code == 2
    assert "there is no interrupted run of 'play' to resume" in errors


def test_a_run_given_up_begins_anew_though_its_state_be_damaged(text: Path, models: Path, told: Told) -> None:
    saved(models).write_bytes(saved(models).read_bytes()[:-100])
    code, _, errors = told(models, "--resume")
    assert code == 2
    assert f"{saved(models)}: damaged" in errors
    assert errors.splitlines()[-1].endswith("start again with --fresh")
    code, _, errors = told(models, "--corpus", text, *SMALL, "--fresh", "--epochs", "1", "--units", "16")
    assert code == 0, errors
    assert artifact.read(models / "play" / "1").config.units == 16


def test_a_disk_that_is_full_ends_the_run_with_a_word_and_keeps_the_last_good_state(
    models: Path, start: StartTrainer, told: Told
) -> None:
    """No file may grow beyond half of what the run had saved: so the next save fails."""
    good = saved(models).read_bytes()

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails then, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) // 2, len(good) // 2))

    process = start(models, "--resume", preexec_fn=full)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    last = errors.splitlines()[-1]
    assert os.strerror(27) in last, "File too large, here"
    assert f"resume with `{TRAIN} --resume" in last
    assert saved(models).read_bytes() == good
    assert list(saved(models).parent.glob("*.part")) == []

    progress = load_progress(saved(models).parent)
    assert progress is not None
    code, _, errors = told(models, "--resume", "--epochs", progress["epoch"])
    assert code == 0, errors


def test_too_little_room_is_said_before_anything_is_trained(tmp_path: Path, text: Path, told: Told) -> None:
    code, output, errors = told(tmp_path, "--corpus", text, *SMALL, "--epochs", "1000000000000")
    assert code == 2
    assert "the saved state and 1000000000000 checkpoints need" in errors
    assert "batch" not in output
