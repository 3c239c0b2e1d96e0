"""python -m trainer as a person runs it: bad input gets one clear line and exit code 2."""

import json
import os
import re
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray

from service.generation.backends import Unsupported
from service.generation.generator import Generator
from tests.support import ARCHITECTURE, Publish, config, publish, random_tensors
from tests.trainer.conftest import shorten_samples
from trainer import artifact, checkpoints, corpus, served
from trainer.__main__ import main
from trainer.artifact import Architecture, ArtifactError
from trainer.config import TrainingConfig
from trainer.errors import RunConflict, WorkerLost
from trainer.options import read_options
from trainer.program import invocation

TRAIN = " ".join(invocation("train"))
SMALL = ["--units", "16", "--embedding", "8", "--batch-size", "16", "--seq-length", "5", "--epochs", "1"]

pytestmark = pytest.mark.usefixtures("short_samples")


def write_text(folder: Path) -> Path:
    path = folder / "text.txt"
    path.write_text("道可道，非常道。名可名，非常名。🎭\n" * 40)
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path)


def run(tmp_path: Path, *arguments: object) -> int:
    return main([str(argument) for argument in ("--models-dir", tmp_path / "models", *arguments)])


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(Models folder with `dao`'s first version, what the run said)."""
    folder, output = tmp_path_factory.mktemp("first"), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output):
        shorten_samples(patch)
        assert run(folder, "--corpus", write_text(folder), "--name", "dao", *SMALL) == 0
    return folder / "models", output.getvalue()


@pytest.fixture
def dao(tmp_path: Path, first_run: tuple[Path, str]) -> Path:
    """The model `dao` of this test's models folder: trained once, on `text`."""
    return shutil.copytree(first_run[0], tmp_path / "models") / "dao"


@pytest.mark.slow
def test_one_command_trains_and_publishes_and_again_makes_the_next_version(tmp_path: Path, text: Path, dao: Path) -> None:
    (dao / ".publishing-by-one-that-was-killed").mkdir()
    again = ["--models-dir", tmp_path / "models", "--corpus", text, text, "--name", "dao", *SMALL]
    assert main(["train", *map(str, again)]) == 0
    assert not list(dao.glob(".publishing-*"))
    first, second = (artifact.read(dao / version).config for version in "12")
    assert first.vocabulary == sorted(set(text.read_text()))
    assert second.characters == 2 * first.characters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "absent.txt"], "absent.txt: No such file or directory"),
        (["--units", "0"], "--units: Input should be greater than or equal to 1"),
        (["--units", "many"], "--units: Input should be a valid integer"),
        (["--cell", "rnn"], "--cell"),
        (["--recipe", "none"], "error: --recipe: Input should be 'best', 'student' or 'tutorial'$"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--layers", "1000000000"], "--layers: Input should be less than or equal to"),
        (["--corpus", "/dev/null"], "/dev/null: is not a regular file"),
        (["--name", "../up"], "--name: String should match pattern"),
        (["--units", "100000", "--layers", "3"], "3 x 100,000 units .* need at least .* GiB of memory; .* GiB are available"),
        (["--seq-length", "20000"], "short of one batch"),
        (["--patience", "3", "--held-out", "0"], "--patience needs held-out text"),
        (["--patience", "3", "--recipe", "tutorial"], "--patience needs held-out text"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(tmp_path, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m trainer: error: ")
    assert re.search(message, line)


@pytest.mark.slow
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


def test_help_says_what_each_command_does_and_what_each_option_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "Train a model on text files and publish it as a version. Options that are not given have the recipe's value." in said
    assert "maximum global norm of the gradient; 0: no clipping (best: 1.0, tutorial: 0.0)" in said
    assert "`python -m trainer evaluate --help`: score a published version." in said


@pytest.mark.slow
def test_a_run_that_cannot_start_leaves_the_last_ones_checkpoints(tmp_path: Path, dao: Path) -> None:
    kept = dao / ".training" / "ckpt_1.safetensors"
    assert kept.is_file()
    assert run(tmp_path, "--corpus", tmp_path / "absent", "--name", "dao") == 2
    assert kept.is_file()


def test_packages_that_only_training_needs_are_named_when_they_are_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.preflight.find_spec", lambda name: None if name == "tensorflow" else name)
    assert main(["--epochs", "1"]) == 2
    errors = capsys.readouterr().err
    assert "error: tensorflow not installed; install what training needs with `pip install 'folio-rnn[trainer]'`" in errors
    assert "in a clone with `make train TEXT=my.txt NAME=mine`" in errors


def test_a_python_that_tensorflow_has_no_release_for_is_named_with_one_that_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.preflight.find_spec", lambda name: None if name == "tensorflow" else name)
    monkeypatch.setattr("trainer.preflight.PYTHON", (3, 14))
    assert main(["--epochs", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "TensorFlow, which has no release for Python 3.14; use Python 3.11 to 3.13" in line
    assert "`make train PYTHON=python3.13`" in line


def test_text_that_is_not_utf8_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad").write_bytes(b"caf\xe9")
    assert run(tmp_path, "--corpus", tmp_path / "bad") == 2
    assert "byte 0xe9 at offset 3" in capsys.readouterr().err


def test_a_second_run_for_the_same_model_is_refused(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = tmp_path / "models" / "dao" / ".training"
    work.mkdir(parents=True)
    with FileLock(work / "lock"):
        assert run(tmp_path, "--corpus", text, "--name", "dao", *SMALL) == 2
    assert "another run is training 'dao'" in capsys.readouterr().err


def fail_to_publish(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def publish(*_: object) -> None:
        raise error

    monkeypatch.setattr("trainer.loop.publish", publish)


FULL = ArtifactError("models/dao: writing a version failed: No space left on device")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        shorten_samples(patch)
        fail_to_publish(patch, FULL)
        assert run(folder, "--corpus", write_text(folder), "--name", "dao", *SMALL) == 1
    return folder / "models"


@pytest.fixture
def unpublished(tmp_path: Path, trained: Path) -> None:
    """A run of `dao` was trained to the end and could not be published."""
    shutil.copytree(trained, tmp_path / "models")


@pytest.mark.slow
@pytest.mark.usefixtures("unpublished")
@pytest.mark.parametrize("asked", ["flag", "variable"])
def test_a_run_trained_to_the_end_says_so_and_auto_asks_for_no_other_precision(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: str
) -> None:
    with monkeypatch.context() as patch:
        fail_to_publish(patch, FULL)
        assert run(tmp_path, "--name", "dao", "--resume") == 1
    place = "after the last epoch, before publishing"
    assert f"No space left on device; saved {place}; resume with `{TRAIN} --resume" in capsys.readouterr().err
    assert run(tmp_path, "--corpus", text, "--name", "dao", *SMALL) == 2
    assert f"a run of 'dao' was interrupted {place}; continue it with --resume" in capsys.readouterr().err
    flags = ["--precision", "auto"] if asked == "flag" else []
    if asked == "variable":
        monkeypatch.setenv("TRAINER_PRECISION", "auto")
    assert run(tmp_path, "--name", "dao", "--resume", *flags) == 0


@pytest.mark.parametrize(
    ("batch", "place"), [(5, "in epoch 3 of 30"), (0, "after epoch 2")], ids=["within an epoch", "between two"]
)
def test_the_position_of_an_interrupted_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], batch: int, place: str
) -> None:
    folder = tmp_path / "models" / "dao" / ".training"
    folder.mkdir(parents=True)
    checkpoints.save_state(folder, checkpoints.SavedState({}, {"epoch": 3, "batch": batch, "config": {"epochs": 30}}))
    assert run(tmp_path, "--name", "dao") == 2
    assert f"a run of 'dao' was interrupted {place}; continue it with --resume" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_diverges_suggests_a_smaller_learning_rate(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = ["--learning-rate", "3e38", "--clip-norm", "0", "--schedule", "constant", "--precision", "f32"]
    assert run(tmp_path, "--corpus", text, *SMALL, *wild) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("of epoch 1; nothing was saved yet; start again, with a smaller --learning-rate")
    assert last.count("--learning-rate") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("unpublished")
def test_a_run_that_ends_out_of_memory_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tensorflow as tf

    fail_to_publish(monkeypatch, tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nmore"))
    assert run(tmp_path, "--name", "dao", "--resume") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "too small for this network and batch: OOM when allocating tensor; saved after the last epoch" in last
    assert f"resume with `{TRAIN} --resume" in last


@pytest.mark.slow
@pytest.mark.usefixtures("unpublished")
def test_a_lost_worker_is_reported_with_how_to_resume_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_to_publish(monkeypatch, WorkerLost("another worker disconnected (Connection reset by peer)"))
    assert run(tmp_path, "--name", "dao", "--resume") == 75
    last = capsys.readouterr().err.splitlines()[-1]
    assert "another worker disconnected (Connection reset by peer); saved after the last epoch" in last
    assert last.endswith("` on every worker")


def test_a_worker_lost_before_anything_was_saved_means_starting_again(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*_: object) -> None:
        raise WorkerLost("another worker disconnected (Connection reset by peer)")

    monkeypatch.setattr("trainer.loop.train", train)
    assert run(tmp_path, "--corpus", text, *SMALL) == 75
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("(Connection reset by peer); nothing was saved yet; start again on every worker")


def test_resuming_on_several_workers_begins_a_run_but_does_not_repeat_a_finished_one(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[object] = []

    def train(config: TrainingConfig, *_: object) -> None:
        started.append(config)
        (config.work_dir / "ckpt_1.safetensors").touch()  # it publishes, and then a worker is lost
        raise WorkerLost("another worker disconnected")

    monkeypatch.setattr("trainer.loop.train", train)
    monkeypatch.setattr("trainer.workers.Workers", lambda rank: rank)
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    arguments = ["--name", "dao", "--corpus", text, *SMALL, "--resume"]
    assert run(tmp_path, *arguments) == 75
    assert len(started) == 1
    assert "nothing was saved" not in capsys.readouterr().err
    assert run(tmp_path, *arguments) == 2
    assert len(started) == 1
    assert "there is no interrupted run of 'dao' to resume" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("unpublished")
def test_fewer_epochs_than_a_run_has_finished_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = checkpoints.load_progress(tmp_path / "models" / "dao" / ".training")
    assert progress is not None
    done = progress["epoch"] - 1
    assert done > 0
    assert run(tmp_path, "--name", "dao", "--resume", "--epochs", done) == 0
    unfinished = checkpoints.SavedState({}, progress | {"epoch": 4})
    checkpoints.save_state(tmp_path / "models" / "dao" / ".training", unfinished)
    assert run(tmp_path, "--name", "dao", "--resume", "--epochs", 2) == 2
    assert "--epochs: the interrupted run has finished 3 epochs; give that number or more" in capsys.readouterr().err


@pytest.mark.slow
def test_variables_are_options_too(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_NAME", "from-variable")
    for empty in ("EPOCHS", "INIT_FROM", "NEWLINES"):  # count as not given
        monkeypatch.setenv(f"TRAINER_{empty}", "")
    monkeypatch.setenv("TRAINER_CORPUS", f'["{text}"]')
    assert run(tmp_path, *SMALL) == 0
    assert (tmp_path / "models" / "from-variable" / "1").is_dir()


def test_a_list_in_a_variable_that_is_no_json_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRAINER_CORPUS", "a.txt")
    assert run(tmp_path) == 2
    assert 'as JSON: ["a.txt", "b.txt"]' in capsys.readouterr().err


def test_a_run_that_is_refused_leaves_no_folder(tmp_path: Path, text: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    for refused in (["--corpus", tmp_path / "empty.txt"], ["--corpus", tmp_path / "absent.txt"], ["--resume", "--name", "nothing"],
                    ["--init-from", tmp_path / "models" / "nope"], ["--corpus", text, "--units", "1000000"]):  # fmt: skip
        assert run(tmp_path, *refused) in (1, 2)
        assert not (tmp_path / "models").exists(), refused


@pytest.mark.slow
def test_a_network_that_int8_harms_is_published_with_a_warning(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = checkpoints.load

    def load_with_outliers(file: Path) -> dict[str, NDArray[np.float32]]:
        weights = load(file)
        weights["dense.kernel"][0] = 3000  # in all columns: it changes no probability, but in int8 all other weights become 0
        return weights

    monkeypatch.setattr(checkpoints, "load", load_with_outliers)
    assert run(tmp_path, "--corpus", text, "--name", "dao", *SMALL) == 0
    output, errors = capsys.readouterr()
    scores = artifact.read(tmp_path / "models" / "dao" / "1").config.scores
    assert scores.as_served is not None
    assert "published" in output.splitlines()[-1]
    (warning,) = errors.splitlines()
    assert warning.startswith("python -m trainer: warning: ")
    for figure in (scores.full_pass, scores.cold_256, scores.as_served.full_pass, scores.as_served.cold_256):
        assert f"{figure:.4f}" in warning


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    assert run(tmp_path, "--corpus", text, *SMALL) == 1
    assert "models/text/.training: Not a directory" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_scores_a_version_on_any_text(tmp_path: Path, text: Path, dao: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = artifact.read(dao / "1")
    held_out = tmp_path / "held_out"
    whole = text.read_text()
    held_out.write_text(whole[-round(0.1 * len(whole)) :])
    for path in (dao, version.path):
        capsys.readouterr()
        assert main(["evaluate", "--model", str(path), "--text", str(held_out)]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found == {
            "model": "dao",
            "version": 1,
            "text": str(held_out),
            "characters": round(0.1 * len(whole)),
            "unknown_characters": 0,
            **version.config.scores.model_dump(),
        }


@pytest.mark.slow
def test_evaluate_scores_the_average_of_several_models_probabilities(
    tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    lstm = ARCHITECTURE.model_copy(update={"cell": "lstm", "layers": 2})
    versions = [publish("a", 1), publish("b", 2), publish("c", 3, architecture=lstm)]
    text = "To be, or not to be: that is the question!"
    (tmp_path / "text").write_text(text)
    models = [argument for name in "abc" for argument in ("--model", tmp_path / name)]
    found, _ = evaluated(capsys, *models, "--text", tmp_path / "text")
    assert found["average_of"] == ["a/1", "b/1", "c/1"]
    probabilities = np.mean([np.exp(Generator(one, slots=1).score(text).logprobs.astype(np.float64)) for one in versions], axis=0)
    assert found["as_served"]["full_pass"] == pytest.approx(-np.log(probabilities).mean(), rel=1e-6)
    assert found["full_pass"] == pytest.approx(found["as_served"]["full_pass"], abs=0.1)
    alone, _ = evaluated(capsys, "--model", tmp_path / "a", "--text", tmp_path / "text")
    twice, _ = evaluated(capsys, "--model", tmp_path / "a", "--model", tmp_path / "a", "--text", tmp_path / "text")
    assert twice["as_served"]["cold_256"] == pytest.approx(alone["as_served"]["cold_256"], rel=1e-6)


def test_models_of_other_vocabularies_have_no_average(tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    publish("a")
    publish("b", architecture=ARCHITECTURE.model_copy(update={"vocabulary": ["a", "b"]}))
    assert main(["evaluate", "--model", str(tmp_path / "a"), "--model", str(tmp_path / "b")]) == 2
    assert "vocabulary" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_without_a_compiler_says_so_once_and_gives_the_same_scores(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish("tiny")
    (tmp_path / "given").write_text("To be, or not to be: that is the question. " * 10)
    arguments = ["--model", tmp_path / "tiny", "--text", tmp_path / "given"]
    native, _ = evaluated(capsys, *arguments)

    def absent() -> Any:
        raise Unsupported("there is no C compiler")

    monkeypatch.setattr(served, "load_library", absent)
    by_numpy, errors = evaluated(capsys, *arguments)
    (line,) = errors.splitlines()
    assert "there is no C compiler" in line
    assert by_numpy["as_served"] == pytest.approx(native["as_served"], abs=1e-9)
    assert {**by_numpy, "as_served": None} == {**native, "as_served": None}


@pytest.mark.slow
def test_evaluate_knows_what_a_model_of_the_reference_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"sha256": {"corpus": corpus.read([corpus.SHAKESPEARE], tmp_path).sha256}, "training": {"held_out": 0.001}}
    vocabulary = sorted(set(corpus.SHAKESPEARE.read_text()))
    shape = Architecture(cell="gru", layers=1, units=8, embedding=4, vocabulary=vocabulary)
    artifact.publish(tmp_path, config(shape, "plays", **fields), random_tensors(shape), {})
    assert main(["evaluate", "--model", str(tmp_path / "plays")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == "the last 0.1 % of shakespeare.txt"
    assert found["characters"] == 1115
    assert found["full_pass"] > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "absent"], "absent/config.json: No such file"),
        (["--model", "."], "no version in it"),
        (["--model", "tiny", "--text", "absent"], "absent: No such file"),
        (["--model", "tiny", "--text", "unknown"], "unknown: not in the model's vocabulary: '%' at position 1"),
        (["--model", "tiny", "--text", "unknown"], "--on-unknown skip drops them, replace reads spaces instead"),
        (
            ["--model", "tiny", "--text", "unknown", "--on-unknown", "skip"],
            "scoring needs at least two characters that the model knows",
        ),
        (["--model", "tiny", "--text", "strange", "--on-unknown", "skip"], "none of its characters is in the model's vocabulary"),
        (["--model", "tiny", "--text", "short"], "scoring needs at least two characters that the model knows"),
        (["--model", "tiny"], "evaluate: error: "),
        (["--model", "tiny"], "its corpus does not come with this package; give a text to score with --text FILE"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    tmp_path: Path,
    publish: Publish,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    publish("tiny")
    (tmp_path / "unknown").write_text("a%")
    (tmp_path / "strange").write_text("%%")
    (tmp_path / "short").write_text("a")
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *arguments]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    assert main(["evaluate", *map(str, arguments)]) == 0
    output, errors = capsys.readouterr()
    return json.loads(output), errors


@pytest.mark.slow
def test_evaluate_skips_or_replaces_unknown_characters_and_counts_them(
    tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    publish("tiny")
    (tmp_path / "given").write_text("to%be% or not")
    about: dict[str, dict[str, Any]] = {}
    for name, words in (("skipped", "tobe or not"), ("replaced", "to be  or not")):
        (tmp_path / name).write_text(words)
        about[name], _ = evaluated(capsys, "--model", tmp_path / "tiny", "--text", tmp_path / name)
    for on_unknown, as_if in (("skip", "skipped"), ("replace", "replaced")):
        found, _ = evaluated(capsys, "--model", tmp_path / "tiny", "--text", tmp_path / "given", "--on-unknown", on_unknown)
        assert found == about[as_if] | {"text": str(tmp_path / "given"), "unknown_characters": 2}


@pytest.mark.slow
def test_evaluate_reads_line_endings_as_in_training(tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "crlf").write_bytes(b"to be\r\nor not\r\n")
    (tmp_path / "lf").write_bytes(b"to be\nor not\n")
    publish("tiny")
    of_crlf, errors = evaluated(capsys, "--model", tmp_path / "tiny", "--text", tmp_path / "crlf")
    of_lf, _ = evaluated(capsys, "--model", tmp_path / "tiny", "--text", tmp_path / "lf")
    assert of_crlf == of_lf | {"text": str(tmp_path / "crlf")}
    assert "converted 2 line endings from CRLF or CR to LF" in errors
    assert main(["evaluate", "--model", str(tmp_path / "tiny"), "--text", str(tmp_path / "crlf"), "--newlines", "keep"]) == 2

    shape = Architecture(cell="gru", layers=1, units=8, embedding=4, vocabulary=sorted("\r\n abcdefghijklmnopqrstuvwxyz"))
    for name, training in (("earlier", {}), ("kept", {"newlines": "keep"})):
        artifact.publish(tmp_path, config(shape, name, training=training), random_tensors(shape), {})
        found, errors = evaluated(capsys, "--model", tmp_path / name, "--text", tmp_path / "crlf")
        assert (found["characters"], errors) == (15, "")


NAMES = [
    ("my.txt", "my"),
    ("pg1342.txt", "pg1342"),
    ("War and Peace (1869).txt", "war-and-peace-1869"),
    ("Café_Straße.tar.txt", "cafe_strasse.tar"),
    ("-x-", "x"),
]


@pytest.mark.parametrize(("file", "name"), NAMES)
@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_text_names_its_model(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, file: str, name: str, by: str) -> None:
    path = text.rename(tmp_path / file)
    if by == "variable":
        monkeypatch.setenv("TRAINER_CORPUS", json.dumps([str(path)]))
    config = read_options(["--corpus", str(path)] if by == "flag" else []).config
    assert config.name == name
    TrainingConfig(name=config.name)
    assert read_options(["--corpus", str(path), "--name", "Mine"]).config.name == "Mine"
    monkeypatch.setenv("TRAINER_NAME", "other")
    assert read_options(["--corpus", str(path)]).config.name == "other"


def test_a_file_name_that_is_not_utf8_names_no_model() -> None:
    with pytest.raises(RunConflict, match="give one with --name"):
        read_options(["--corpus", os.fsdecode(b"caf\xe9.txt")])


def test_without_a_text_the_model_is_shakespeare() -> None:
    assert read_options([]).config.name == "shakespeare"


@pytest.mark.parametrize("files", [["a.txt", "b.txt"], ["道德经.txt"], ["道德经 1.txt"], ["...txt"], ["a" * 101]])
def test_a_text_that_names_no_model_is_refused_with_the_option_that_does(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str], files: list[str]
) -> None:
    for file in files:
        (tmp_path / file).write_text(text.read_text())
    assert run(tmp_path, "--corpus", *(tmp_path / file for file in files), *SMALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--name" in line
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("resumed", [False, True])
def test_a_text_does_not_take_another_texts_model_unless_it_is_named(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str], resumed: bool
) -> None:
    publish(tmp_path / "models", "shakespeare")
    path = text.rename(tmp_path / "shakespeare.txt")
    assert run(tmp_path, "--corpus", path, *SMALL, *(["--resume"] if resumed else [])) == 2
    errors = capsys.readouterr().err
    assert ("no interrupted run" if resumed else "was trained on another text; give --name shakespeare") in errors
    assert artifact.versions(tmp_path / "models" / "shakespeare") == [1]


@pytest.mark.slow
def test_a_text_takes_its_own_model_again_and_another_texts_when_that_is_named(tmp_path: Path, text: Path, dao: Path) -> None:
    text = text.rename(tmp_path / "dao.txt")
    assert run(tmp_path, "--corpus", text, *SMALL) == 0
    text.write_text(text.read_text() * 2)
    assert run(tmp_path, "--corpus", text, *SMALL) == 2
    assert run(tmp_path, "--corpus", text, "--name", "dao", *SMALL) == 0
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["dao"]
    assert artifact.versions(dao) == [1, 2, 3]


@pytest.mark.slow
def test_a_windows_text_with_a_mark_gives_the_model_of_a_plain_one(
    tmp_path: Path, text: Path, first_run: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    windows = tmp_path / "windows.txt"
    windows.write_bytes(("\ufeff" + text.read_text().replace("\n", "\r\n")).encode())
    assert run(tmp_path, "--corpus", windows, *SMALL) == 0
    models, said = first_run
    assert "published" in said
    assert "CRLF" not in said
    assert "converted 40 line endings from CRLF or CR to LF; --newlines keep keeps them" in capsys.readouterr().out
    plain, converted = artifact.read(models / "dao" / "1"), artifact.read(tmp_path / "models" / "windows" / "1")
    assert converted.config.vocabulary == plain.config.vocabulary
    assert converted.config.training["newlines"] == "universal"
    for name, tensor in plain.tensors.items():
        np.testing.assert_array_equal(converted.tensors[name], tensor)
    assert run(tmp_path, "--corpus", windows, "--name", "kept", "--newlines", "keep", *SMALL) == 0
    assert "\r" in artifact.read(tmp_path / "models" / "kept" / "1").config.vocabulary
