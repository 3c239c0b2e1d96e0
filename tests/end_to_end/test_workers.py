"""Two trainers that train one network together, on loopback: real processes, TensorFlow's own collectives."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.conftest import StartTrainer, trainers
from tests.ports import free_ports
from tests.support import publish, wait_until
from trainer import artifact
from trainer.__main__ import main
from trainer.artifact import Architecture
from trainer.checkpoints import STATE, load_progress

SMALL = ["--units", "32", "--embedding", "8", "--seq-length", "20", "--epochs", "2", "--save-every", "5"]
CERTAIN = ["--weight-drop", "0", "--output-dropout", "0", "--embedding-dropout", "0"]  # each worker would draw its own masks
CERTAIN += ["--precision", "f32"]  # and round its own half of a batch's gradient


def start_two(start: StartTrainer, models: Path, *arguments: object, other: Sequence[str] = ()) -> list[subprocess.Popen[str]]:
    """Two workers on free ports; other: what the second is told besides."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = []
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        given = [*SMALL, *CERTAIN, *arguments, *(other if index else ())]
        workers.append(start(models, *given, env=os.environ | {"TF_CONFIG": json.dumps(cluster)}))
    return workers


def ended(workers: list[subprocess.Popen[str]]) -> list[str]:
    """What each printed; none wrote to standard error."""
    outputs = []
    for worker in workers:
        output, errors = worker.communicate(timeout=300)
        assert (worker.returncode, errors) == (0, "")
        outputs.append(output)
    return outputs


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, text: Path) -> tuple[Path, list[str]]:
    """(Models folder, what each said) of two whom nothing happens to."""
    models = tmp_path_factory.mktemp("two")
    with trainers() as start:
        return models, ended(start_two(start, models, *together(text)))


def together(text: Path) -> list[object]:
    return ["--corpus", text, "--batch-size", "4"]


def history(models: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((models / "play" / "1" / "training.json").read_text())["history"]
    return found


def test_two_follow_one_with_the_doubled_batch_and_one_publishes(tmp_path: Path, text: Path, two: tuple[Path, list[str]]) -> None:
    models, (first, second) = two
    follows_one_with_the_doubled_batch(models, tmp_path, text)
    assert first.splitlines()[-1] == f"published {models / 'play' / '1'}"
    assert second.splitlines()[-1] == "trained; worker 0 publishes"


def test_two_learn_from_teachers_what_one_learns_with_the_doubled_batch(tmp_path: Path, text: Path, start: StartTrainer) -> None:
    """Each worker's teachers write that worker's rows only."""
    shape = Architecture(cell="gru", layers=1, units=24, embedding=8, vocabulary=sorted(set(text.read_text())))
    teachers = ["--teacher", *(publish(tmp_path, f"teacher-{seed}", seed, shape).path for seed in range(3))]
    ended(start_two(start, tmp_path / "two", *together(text), *teachers))
    follows_one_with_the_doubled_batch(tmp_path / "two", tmp_path / "one", text, *teachers)


def follows_one_with_the_doubled_batch(models_of_two: Path, models_of_one: Path, text: Path, *options: object) -> None:
    """Trains one worker with the doubled batch, in this process, and compares its history with that of the two."""
    arguments = ["--models-dir", models_of_one, "--name", "play", *SMALL, *CERTAIN, "--corpus", text, "--batch-size", "8", *options]
    assert main([str(part) for part in arguments]) == 0
    for one, two in zip(history(models_of_one), history(models_of_two), strict=True):
        np.testing.assert_allclose(two["losses"], one["losses"], atol=1e-4)
        assert two["held_out"]["full_pass"] == pytest.approx(one["held_out"]["full_pass"], abs=1e-4)


def test_a_worker_that_was_killed_and_started_again_goes_on_from_the_last_saved_state(
    tmp_path: Path, text: Path, start: StartTrainer, two: tuple[Path, list[str]]
) -> None:
    folder = tmp_path / "play" / ".training"
    for _ in range(10):  # on a busy machine a run may end before it is killed
        shutil.rmtree(tmp_path / "play", ignore_errors=True)
        chief, other = start_two(start, tmp_path, *together(text))
        wait_until(lambda: (folder / STATE).exists() or other.poll() is not None, seconds=300)  # noqa: B023 - called here only
        other.kill()
        other.communicate()
        _, errors = chief.communicate(timeout=300)
        if progress := load_progress(folder):
            break
    assert progress is not None, "each run was killed too late"
    assert chief.returncode == 75
    assert "another worker disconnected (" in errors
    assert f"; saved after batch {progress['batch']} of epoch {progress['epoch']}; resume with" in errors

    ended(start_two(start, tmp_path, *together(text), "--resume"))
    undisturbed, killed = (artifact.read(models / "play" / "1") for models in (two[0], tmp_path))
    for name, tensor in undisturbed.tensors.items():
        np.testing.assert_array_equal(killed.tensors[name], tensor, err_msg=name)


def test_workers_whose_weights_do_not_agree_stop(tmp_path: Path, text: Path, start: StartTrainer) -> None:
    """The check that those of the tests above passed, at the start and at every epoch's end: here the second has another seed."""
    chief, other = start_two(start, tmp_path, *together(text), other=["--seed", "1"])
    _, errors = other.communicate(timeout=300)
    assert other.returncode == 1
    assert "the state of worker 1 differs from that of worker 0; start all workers with the same options" in errors
    _, errors = chief.communicate(timeout=300)
    assert (chief.returncode, "another worker disconnected (" in errors) == (75, True)


def test_a_cluster_that_is_none_is_explained(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for broken in ("{", "[]", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}'):
        monkeypatch.setenv("TF_CONFIG", broken)
        assert main(["--models-dir", str(tmp_path / "models"), "--corpus", str(text), *SMALL]) == 2
        assert "TF_CONFIG: " in capsys.readouterr().err
