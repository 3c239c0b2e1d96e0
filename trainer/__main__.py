"""python -m trainer [train]: one run, from a text to a published version. python -m trainer evaluate: a version's scores.

Checks its options before it imports TensorFlow, so that a mistake shows at once: one line, exit code 2.
"""

import io
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from trainer import artifact, checkpoints, corpus
from trainer.artifact import ArtifactError
from trainer.checkpoints import StateDamaged
from trainer.config import TrainingConfig
from trainer.corpus import CorpusError
from trainer.evaluate import evaluate
from trainer.options import Options, RunConflict, read_options, resume_config, take_architecture
from trainer.preflight import check_disk, check_memory, check_resumable, check_start
from trainer.resources import ClusterError, Position, TooLarge, read_position, share_cores
from trainer.text_files import describe_converted

NEEDED = ("filelock", "keras", "matplotlib", "tensorboard", "tensorflow")  # the extra `trainer`
PYTHON, NEWEST_PYTHON = sys.version_info[:2], (3, 13)  # the newest that TensorFlow has a release for


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 failed on the way, 2 asked for the impossible, 75 another worker gone, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return _fail(2, _how_to_install(missing))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a text's characters
    # Errors of TensorFlow's are shown; its notes and warnings are about itself, not about the run.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        if given[:1] == ["evaluate"]:
            return evaluate(given[1:])
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


def _how_to_install(missing: Sequence[str]) -> str:
    """What to do about packages that are not installed."""
    if "tensorflow" in missing and PYTHON > NEWEST_PYTHON:
        here, newest = (".".join(map(str, version)) for version in (PYTHON, NEWEST_PYTHON))
        return (
            f"training needs TensorFlow, which has no release for Python {here}: use Python 3.11 to {newest}, "
            f"as in `make train PYTHON=python{newest}`"
        )
    return (
        f"{', '.join(missing)} not installed; `make setup` brings what training needs beside serving, "
        "and `make train TEXT=my.txt NAME=mine` installs that alone and trains"
    )


def _train(arguments: Sequence[str]) -> int:
    from filelock import FileLock, Timeout

    options = read_options(arguments)
    config, position = options.config, read_position()
    folder = config.work_dir / f"worker-{position.worker}" if position.worker else config.work_dir
    try:
        with _made(folder), FileLock(folder / "lock", timeout=0):
            begun = None if options.fresh else checkpoints.load_progress(config.work_dir)
            # A supervisor may say --resume to workers that have saved nothing yet.
            if options.resume and (begun or position.workers == 1):
                config = resume_config(options, begun)
                return _run(replace(options, config=config), folder, position, state=checkpoints.load_state(config.work_dir))
            if begun:
                place = _name_place(begun, within=f"in epoch {begun['epoch']} of {begun['config']['epochs']}")
                raise RunConflict(
                    f"a run of {config.name!r} has been interrupted {place}: go on with --resume, or give it up with --fresh"
                )
            init = None if config.init_from is None else artifact.read(artifact.find(config.init_from))
            return _run(options if init is None else take_architecture(options, init), folder, position, init=init)
    except Timeout:
        raise RunConflict(
            f"another run is training {config.name!r} in {config.models_dir}; wait for it, or give another --name"
        ) from None


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder exists. If a run is refused, what was made for it is removed again."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except (CorpusError, RunConflict, TooLarge, ArtifactError):
        if folder in missing:
            (folder / "lock").unlink(missing_ok=True)
        with suppress(OSError):  # something is in it by now
            for path in missing:
                path.rmdir()
        raise


def _run(
    options: Options,
    folder: Path,
    position: Position,
    state: checkpoints.State | None = None,
    init: artifact.Version | None = None,
) -> int:
    """Trains and publishes, from `state` on, or from the weights of `init`. `folder` is this process's alone."""
    config, (count, index) = options.config, position
    _prepare_publishing(config.work_dir.parent, clean=not index)
    text = _read_corpus(config, folder, state, init)
    if state is not None:
        check_resumable(config, text, state, position)
    else:
        check_start(options, text, init)
    trained_on, _ = corpus.split(text.ids, config.held_out)
    corpus.check_length(len(trained_on), count * config.batch_size, config.seq_length)
    check_memory(config, text.vocabulary.characters)
    check_disk(config, text.vocabulary.characters)
    if state is None and not index:
        checkpoints.clear(config.work_dir)  # an earlier run's, once this one can start
    print(f"{len(text.ids):,} characters, {len(text.vocabulary)} distinct", flush=True)

    share_cores(config.batch_size)
    from trainer.loop import Diverged, train
    from trainer.served import compare
    from trainer.workers import WorkerLost, Workers, WorkersDisagree

    workers = Workers(count, index)  # waits for all of them, and a signal ends that at once: there is nothing to save yet
    try:
        with _stop_on_signals() as stop:
            version = train(config, text, stop, state, workers, init)
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
    if version and (warning := compare(version.config.scores)):
        print(f"python -m trainer: warning: {warning}", file=sys.stderr)
    return 0


def _prepare_publishing(model: Path, *, clean: bool) -> None:
    """Raises OSError now, not after hours, where the folder can't be written."""
    for draft in model.glob(f"{artifact.DRAFT}*") if clean else ():
        shutil.rmtree(draft, ignore_errors=True)  # left by a run that was killed while it published; this one has the lock
    with tempfile.TemporaryDirectory(prefix=artifact.DRAFT, dir=model):
        pass


def _read_corpus(
    config: TrainingConfig, folder: Path, state: checkpoints.State | None, init: artifact.Version | None
) -> corpus.Corpus:
    """The text, in a vocabulary that has all characters of `init` too; a resumed run has saved its vocabulary."""
    known = init.config.vocabulary if init else state.progress.get("vocabulary", ()) if state else ()
    text = corpus.read(config.corpus, folder, config.newlines, known)
    if text.converted:
        print(describe_converted(text.converted), flush=True)
    return text


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
