"""python -m trainer [train]: one run, from a text to a published version. python -m trainer evaluate: a version's scores.

Checks its options before it imports TensorFlow, so that a mistake shows at once: one line, exit code 2.
"""

import argparse
import io
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from trainer import artifact, checkpoints, corpus
from trainer.artifact import ArtifactError
from trainer.checkpoints import StateDamaged
from trainer.config import RECIPES, TrainingConfig
from trainer.corpus import CorpusError
from trainer.machine import ClusterError, Position, TooLarge, check_disk, check_memory, read_position, share_cores
from trainer.vocabulary import Vocabulary

NEEDED = ("filelock", "keras", "matplotlib", "tensorboard", "tensorflow")  # the extra `trainer`
MAY_CHANGE = {"name", "models_dir", "corpus", "epochs", "learning_rate", "patience", "save_every"}  # when a run is resumed


class RunConflict(Exception):
    """The request conflicts with the state on disk."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 failed on the way, 2 asked for the impossible, 75 another worker gone, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return _fail(2, f"{', '.join(missing)} not installed; `make setup` brings what training needs beside serving")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a text's characters
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # silences TensorFlow's notes on instruction sets
    try:
        if given[:1] == ["evaluate"]:
            return _evaluate(given[1:])
        return _train(given[1:] if given[:1] == ["train"] else given)
    except ValidationError as error:
        return _fail(2, "; ".join(_option_error(fault["loc"], fault["msg"]) for fault in error.errors()))
    except SettingsError as error:  # a variable's list that is no JSON
        return _fail(2, f'{error}; a list is written as JSON: ["a.txt", "b.txt"]')
    except (CorpusError, ClusterError, TooLarge, RunConflict, StateDamaged) as error:
        return _fail(2, str(error))
    except (OSError, ArtifactError) as error:
        return _fail(1, _io_error(error))
    except KeyboardInterrupt:
        return _fail(130, "interrupted")


def _train(arguments: Sequence[str]) -> int:
    from filelock import FileLock, Timeout

    flags = _parse_flags(arguments)
    resume, fresh = flags.pop("resume", False), flags.pop("fresh", False)
    config = TrainingConfig(**flags)
    position = read_position()
    folder = config.work_dir / f"worker-{position.worker}" if position.worker else config.work_dir
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            begun = None if fresh else checkpoints.load_progress(config.work_dir)
            if resume and (begun or position.workers == 1):  # a supervisor may say --resume to workers that have saved nothing yet
                return _run(_resume_config(config, flags, begun), folder, position, checkpoints.load_state(config.work_dir))
            if begun:
                place = _name_place(begun, within=f"in epoch {begun['epoch']} of {begun['config']['epochs']}")
                raise RunConflict(
                    f"a run of {config.name!r} has been interrupted {place}: go on with --resume, or give it up with --fresh"
                )
            return _run(config, folder, position)
    except Timeout:
        raise RunConflict(
            f"another run is training {config.name!r} in {config.models_dir}; wait for it, or give another --name"
        ) from None


def _run(config: TrainingConfig, folder: Path, position: Position, state: checkpoints.State | None = None) -> int:
    """Trains and publishes. `folder` is this process's alone."""
    count, index = position
    for draft in config.work_dir.parent.glob(f"{artifact.DRAFT}*") if not index else ():
        shutil.rmtree(draft, ignore_errors=True)  # left by a run that was killed while it published; this one has the lock
    with tempfile.TemporaryDirectory(prefix=artifact.DRAFT, dir=config.work_dir.parent):
        pass  # fails now, not after hours, where the folder can't be written
    text = corpus.read(config.corpus, folder)
    if state is not None and state.progress["workers"] != count:
        raise RunConflict(f"the interrupted run was begun with {state.progress['workers']} workers; there are {count} now")
    if state is not None and state.progress["corpus"] != text.sha256:
        raise RunConflict(f"{', '.join(map(str, config.corpus))}: not the text that the interrupted run was trained on")
    trained_on, _ = corpus.split(text.ids, config.held_out)
    corpus.check_length(len(trained_on), count * config.batch_size, config.seq_length)
    check_memory(config, text.vocabulary.characters)
    check_disk(config, text.vocabulary.characters)
    if state is None and not index:
        checkpoints.clear(config.work_dir)  # an earlier run's, once this one can start
    print(f"{len(text.ids):,} characters, {len(text.vocabulary)} distinct", flush=True)

    share_cores(config.batch_size)
    from trainer.loop import Diverged, train
    from trainer.workers import WorkerLost, Workers, WorkersDisagree

    workers = Workers(count, index)  # waits for all of them, and a signal ends that at once: there is nothing to save yet
    try:
        with _stop_on_signals() as stop:
            version = train(config, text, stop, state, workers)
    except Diverged as error:
        return _fail(1, f"{error}{_how_to_resume(config, ', with a smaller --learning-rate')}")
    except TooLarge as error:
        return _fail(1, f"{error}{_how_to_resume(config)}")
    except KeyboardInterrupt:
        return _fail(130, f"interrupted{_how_to_resume(config)}")
    except WorkersDisagree as error:
        return _fail(1, str(error))
    except WorkerLost as error:
        return _fail(75, f"another worker is gone{_how_to_resume(config, ' on every worker')} ({error})")
    except (OSError, ArtifactError) as error:
        return _fail(1, f"{_io_error(error)}{_how_to_resume(config)}")
    print(f"published {version.path}" if version else "trained; worker 0 publishes")
    return 0


def _resume_config(config: TrainingConfig, flags: dict[str, Any], progress: dict[str, Any] | None) -> TrainingConfig:
    """The interrupted run's options, with those changed that may be."""
    if progress is None:
        raise RunConflict(f"{config.work_dir}: there is no interrupted run of {config.name!r} to resume")
    begun = progress["config"]
    variables = {name for name in TrainingConfig.model_fields if f"TRAINER_{name}".upper() in os.environ}
    asked = config.model_dump(mode="json", include=set(flags) | variables)
    if asked.get("precision") == "auto":
        del asked["precision"]  # asks for nothing in particular, and what it meant when the run was begun is in `begun`
    for option in sorted(asked.keys() - MAY_CHANGE):
        if asked[option] != begun[option]:
            raise RunConflict(
                f"--{option.replace('_', '-')}: the interrupted run was begun with {begun[option]}; leave it out, "
                "or begin anew with --fresh"
            )
    return TrainingConfig(**begun | asked | {"models_dir": config.models_dir, "name": config.name})


def _how_to_resume(config: TrainingConfig, change: str = "") -> str:
    """What an error adds: what there is to go on from, and how; change: what must be different then."""
    progress = checkpoints.load_progress(config.work_dir)
    if progress is None:
        return f"; nothing had been saved yet{f': begin anew{change}' if change else ''}"
    place = _name_place(progress, within=f"after batch {progress['batch']} of epoch {progress['epoch']}")
    command = ["python", "-m", "trainer", "--resume", "--name", config.name, "--models-dir", str(config.models_dir)]
    return f"; saved {place}: go on with `{shlex.join(command)}`{change}"


def _name_place(progress: dict[str, Any], within: str) -> str:
    """Where a saved run is: `within` an epoch, or else between two, or after the last."""
    if progress["epoch"] > progress["config"]["epochs"]:
        return "after the last epoch, not yet published"
    return within if progress["batch"] else f"after epoch {progress['epoch'] - 1}"


def _evaluate(arguments: Sequence[str]) -> int:
    """Prints a version's scores on a text as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer evaluate",
        description="Print a version's scores on a text, in nats per character, as JSON.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="models/<name> for its newest version, or models/<name>/<version>"
    )
    parser.add_argument(
        "--text",
        type=Path,
        help="a UTF-8 text file (default, for a version trained on Shakespeare's plays: the part that was held out)",
    )
    given = parser.parse_args(arguments)
    path = given.model if (given.model / artifact.CONFIG).exists() or not given.model.is_dir() else _find_newest(given.model)
    version = artifact.read(path)
    vocabulary = Vocabulary(version.config.vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        if given.text is not None:
            ids, name = corpus.encode(given.text, vocabulary, Path(folder)), str(given.text)
        else:
            share = float(version.config.training.get("held_out", 0))
            text = corpus.read([corpus.SHAKESPEARE], Path(folder))
            if text.sha256 != version.config.sha256.corpus:
                raise RunConflict(f"{path}: its corpus does not come with this package; say what to score with --text FILE")
            if not share:
                raise RunConflict(
                    f"{path}: nothing of its corpus was held out, so no score on it is honest; give another with --text FILE"
                )
            ids, name = corpus.split(text.ids, share)[1], f"the last {share:.0%} of {corpus.SHAKESPEARE.name}"
        if len(ids) < 2:
            raise CorpusError(f"{name}: one character leaves nothing to predict")

        from trainer.evaluation import Evaluator

        scores = Evaluator(version.config).scores(version.tensors, ids)
        about = {"model": version.config.name, "version": version.config.version, "text": name, "characters": len(ids)}
        print(json.dumps(about | scores.model_dump()))
    return 0


def _find_newest(model: Path) -> Path:
    found = artifact.versions(model)
    if not found:
        raise ArtifactError(f"{model}: no version in it")
    return model / str(found[-1])


@contextmanager
def _stop_on_signals() -> Iterator[Event]:
    """An Event set by the first SIGINT or SIGTERM: a KeyboardInterrupt raised inside TensorFlow can abort the process.

    A second signal raises one.
    """
    stop = Event()

    def on_signal(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parse_flags(arguments: Sequence[str]) -> dict[str, Any]:
    """The flags given, as strings by field: one for each field of TrainingConfig, which checks them.

    Not by pydantic-settings, which joins a list's values with commas and drops all but the last of a repeated flag.
    """
    parser = argparse.ArgumentParser(
        prog="python -m trainer [train]",
        description="Train a model on text files and publish it as a version. Options not given take the recipe's value.",
        epilog="`python -m trainer evaluate --help`: score a published version.",
        allow_abbrev=False,
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", default=argparse.SUPPRESS, help="go on with the interrupted run of that name"
    )
    again.add_argument("--fresh", action="store_true", default=argparse.SUPPRESS, help="give up an interrupted run and begin anew")
    for name, field in TrainingConfig.model_fields.items():
        flag = "--" + name.replace("_", "-")
        of_recipe = ", ".join(f"{recipe}: {options[name]}" for recipe, options in RECIPES.items() if name in options)
        default = f" ({of_recipe})" if of_recipe else "" if field.default_factory else f" (default: {field.default})"
        several: dict[str, Any] = {"nargs": "+", "action": "extend", "metavar": "FILE"} if name == "corpus" else {}
        parser.add_argument(flag, default=argparse.SUPPRESS, help=f"{field.description}{default}", **several)
    return vars(parser.parse_args(arguments))


def _option_error(place: Sequence[int | str], message: str) -> str:
    option = "--" + str(place[0]).replace("_", "-") if place else ""
    return f"{option}: {message}" if option else message


def _io_error(error: OSError | ArtifactError) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    return str(error)


def _fail(code: int, message: str) -> int:
    print(f"python -m trainer: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
