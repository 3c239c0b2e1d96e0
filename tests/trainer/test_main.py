"""python -m trainer as a person runs it: bad input gets one clear line and exit code 2."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from trainer import artifact
from trainer.__main__ import main

SMALL = ["--units", "16", "--embedding", "8", "--batch-size", "4", "--seq-length", "20", "--epochs", "1"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("道可道，非常道。名可名，非常名。🎭\n" * 40)
    return path


def run(tmp_path: Path, *arguments: object) -> int:
    return main([str(argument) for argument in ("--models-dir", tmp_path / "models", *arguments)])


def test_one_command_trains_and_publishes_and_again_makes_the_next_version(tmp_path: Path, text: Path) -> None:
    assert main(["train", "--models-dir", str(tmp_path / "models"), "--corpus", str(text), "--name", "dao", *SMALL]) == 0
    assert run(tmp_path, "--corpus", text, text, "--name", "dao", *SMALL) == 0
    first, second = (artifact.read(tmp_path / "models" / "dao" / version).config for version in "12")
    assert first.vocabulary == sorted(set(text.read_text()))
    assert second.characters == 2 * first.characters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "absent.txt"], "absent.txt: No such file or directory"),
        (["--units", "0"], "--units: Input should be greater than or equal to 1"),
        (["--units", "many"], "--units: Input should be a valid integer"),
        (["--cell", "rnn"], "--cell"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--layers", "1000000000"], "--layers: Input should be less than or equal to"),
        (["--corpus", "/dev/null"], "/dev/null: not a file"),
        (["--name", "../up"], "--name: String should match pattern"),
        (["--units", "100000", "--layers", "3"], "3 x 100,000 units .* need at least .* GiB of memory, of which there are"),
        (["--seq-length", "20000"], "short of one batch"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(tmp_path, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m trainer: error: ")
    assert re.search(message, line)


def test_files_are_named_in_one_flag_or_several_and_may_be_called_anything(tmp_path: Path, text: Path) -> None:
    names = [tmp_path / name for name in ("war,peace.txt", "[1].txt", "a b.txt", os.fsdecode(b"caf\xe9.txt"))]
    for name in names:
        name.write_text(text.read_text())
    assert run(tmp_path, "--corpus", names[0], names[1], "--corpus", *names[2:], "--name", "four", *SMALL) == 0
    config = artifact.read(tmp_path / "models" / "four" / "1").config
    assert config.training["corpus"] == ["war,peace.txt", "[1].txt", "a b.txt", r"caf\udce9.txt"]
    assert config.characters == 4 * len(text.read_text())


def test_a_flag_that_is_none_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, "--nonsense", "1")
    assert stopped.value.code == 2
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err


def test_a_run_that_cannot_start_leaves_the_last_ones_checkpoints(tmp_path: Path, text: Path) -> None:
    assert run(tmp_path, "--corpus", text, "--name", "dao", *SMALL) == 0
    kept = tmp_path / "models" / "dao" / ".training" / "ckpt_1.safetensors"
    assert run(tmp_path, "--corpus", tmp_path / "absent", "--name", "dao") == 2
    assert kept.is_file()


def test_packages_that_only_training_needs_are_named_when_they_are_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.__main__.find_spec", lambda name: None if name == "tensorflow" else name)
    assert main(["--epochs", "1"]) == 2
    assert "error: tensorflow not installed; `make setup` brings" in capsys.readouterr().err


def test_text_that_is_not_utf8_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad").write_bytes(b"caf\xe9")
    assert run(tmp_path, "--corpus", tmp_path / "bad") == 2
    assert "byte 0xe9 at offset 3" in capsys.readouterr().err


def test_a_second_run_for_the_same_model_is_told_to_wait(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = tmp_path / "models" / "dao" / ".training"
    work.mkdir(parents=True)
    with FileLock(work / "lock"):
        assert run(tmp_path, "--corpus", text, "--name", "dao", *SMALL) == 2
    assert "another run is training 'dao'" in capsys.readouterr().err


def test_variables_are_options_too(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_NAME", "from-variable")
    monkeypatch.setenv("TRAINER_CORPUS", f'["{text}"]')
    assert run(tmp_path, *SMALL) == 0
    assert (tmp_path / "models" / "from-variable" / "1").is_dir()


def test_a_list_in_a_variable_that_is_no_json_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRAINER_CORPUS", "a.txt")
    assert run(tmp_path) == 2
    assert 'as JSON: ["a.txt", "b.txt"]' in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    assert run(tmp_path, "--corpus", text, *SMALL) == 1
    assert "models/shakespeare/.training: Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_what_is_kept(tmp_path: Path, text: Path, number: signal.Signals) -> None:
    arguments = ["--models-dir", str(tmp_path / "models"), "--corpus", str(text), "--name", "dao", *SMALL, "--epochs", "100000"]
    trainer = subprocess.Popen(
        [sys.executable, "-m", "trainer", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    while "epoch 2/" not in trainer.stdout.readline():
        assert trainer.poll() is None
    trainer.send_signal(number)
    _, errors = trainer.communicate(timeout=60)
    assert trainer.returncode == 130
    assert "interrupted; finished epochs are kept in" in errors.splitlines()[-1]
    assert (tmp_path / "models" / "dao" / ".training" / "ckpt_1.safetensors").is_file()
    assert artifact.versions(tmp_path / "models" / "dao") == []
