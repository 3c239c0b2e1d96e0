"""python -m trainer [train]: trains a model on a text and publishes it. python -m trainer evaluate: scores a version.

TensorFlow is imported only after all options are checked, so that a mistake shows at once. Errors become exit codes here.
"""

import io
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

from pydantic import ValidationError
from pydantic_settings import SettingsError

from trainer import artifact, checkpoints, corpus, preflight
from trainer.artifact import ArtifactError, Version
from trainer.checkpoints import SavedState
from trainer.cluster import Rank, read_rank
from trainer.config import TrainingConfig
from trainer.errors import RunConflict, TrainerError, WorkersDisagree
from trainer.evaluate import evaluate
from trainer.importing import configure_tensorflow, importing_tensorflow
from trainer.options import (
    Options,
    check_combination,
    check_not_interrupted,
    describe_resume,
    read_options,
    resume_options,
    take_architecture,
)
from trainer.program import program

ERRORS = (TrainerError, ArtifactError, OSError, MemoryError, ValidationError, SettingsError, KeyboardInterrupt)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 success, 1 failed, 2 can't be run as given, 75 another worker disconnected, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not support all characters of a text
    # TensorFlow's errors are shown. Its notes and warnings are about itself, not about the run.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    command = "evaluate" if given[:1] == ["evaluate"] else "train"
    try:
        preflight.check_packages()
        run = evaluate if command == "evaluate" else _train
        run(given[1:] if given[:1] == [command] else given)
    except ERRORS as error:
        code, message = _describe(error)
        print(f"{program(command)}: error: {message}{''.join(getattr(error, '__notes__', ()))}", file=sys.stderr)
        return code
    return 0


def _describe(error: BaseException) -> tuple[int, str]:
    """(exit code, message)."""
    match error:
        case TrainerError():
            return error.exit_code, str(error)
        case ValidationError():
            faults = [(fault["loc"], fault["msg"].removeprefix("Value error, ")) for fault in error.errors()]
            return 2, "; ".join(f"--{str(loc[0]).replace('_', '-')}: {message}" if loc else message for loc, message in faults)
        case SettingsError():  # a variable's list that is not JSON
            return 2, f'{error}; write a list as JSON: ["a.txt", "b.txt"]'
        case OSError():
            reason = str(error.strerror or error)
            return 1, f"{error.filename}: {reason}" if error.filename else reason
        case MemoryError():
            return 1, str(error) or "not enough memory"
        case KeyboardInterrupt():
            return 130, "interrupted"
    return 1, str(error)


def _train(arguments: Sequence[str]) -> None:
    options, worker = read_options(arguments), read_rank()
    config = options.config
    folder = config.work_dir / f"worker-{worker.rank}" if worker.rank else config.work_dir
    with _locked(folder, config):
        saved, init = None if options.fresh else checkpoints.load_state(config.work_dir), None
        progress = saved.progress if saved else None
        # A supervisor may pass --resume to the workers of a cluster before anything is saved.
        begins = worker.world_size > 1 and not saved and not checkpoints.has_finished(config.work_dir)
        if options.resume and not begins:
            options = resume_options(options, progress)
        else:
            check_not_interrupted(config, progress)
            if config.init_from is not None:
                init = artifact.read(artifact.find(config.init_from))
                options = take_architecture(options, init)
        check_combination(options)
        _run(options, folder, worker, saved, init)


@contextmanager
def _locked(folder: Path, config: TrainingConfig) -> Iterator[None]:
    """Creates the folder and locks it for this process. If the run can't start, the folders that this created are removed."""
    from filelock import FileLock, Timeout

    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise RunConflict(
            f"another run is training {config.name!r} in {config.models_dir}; wait for it, or use another --name"
        ) from None
    except (TrainerError, ArtifactError):
        if folder in missing and {path.name for path in folder.iterdir()} <= {"lock"}:
            (folder / "lock").unlink(missing_ok=True)
            with suppress(OSError):  # another run may use a parent folder by now
                for path in missing:
                    path.rmdir()
        raise


def _run(options: Options, folder: Path, worker: Rank, saved: SavedState | None, init: Version | None) -> None:
    """Trains and publishes, from the saved state or from the weights of `init`. folder: only this process writes to it."""
    teachers = [_read_teacher(path) for path in options.config.teacher]
    # With their versions' numbers, so that the run can be resumed when these models have newer versions.
    config = options.config.model_copy(update={"teacher": [teacher.path for teacher in teachers]})
    if worker.rank == 0:
        for draft in config.work_dir.parent.glob(f"{artifact.DRAFT}*"):  # of a run that was killed while it published
            shutil.rmtree(draft, ignore_errors=True)
    preflight.check_writable(config.work_dir.parent)
    # A resumed run has saved its vocabulary, which may have more characters than the text.
    known = init.config.vocabulary if init else saved.progress.get("vocabulary", ()) if saved else ()
    text = corpus.read(config.corpus, folder, config.newlines, known)
    if text.converted:
        print(corpus.describe_converted(text.converted), flush=True)
    preflight.check_run(options, text, worker, saved, init, teachers)
    if saved is None and worker.rank == 0:
        checkpoints.clear(config.work_dir)
    print(f"{len(text.ids):,} characters, {len(text.vocabulary)} distinct", flush=True)

    configure_tensorflow(config.batch_size, config.precision)
    with importing_tensorflow():
        from trainer.loop import train
        from trainer.served import compare
        from trainer.workers import Workers

    workers = Workers(worker)  # a signal during this wait ends the process at once: there is nothing to save yet
    try:
        with _stop_on_signals() as stop:
            version = train(config, text, stop, saved, workers, init, teachers)
    except WorkersDisagree:
        raise
    except (TrainerError, ArtifactError, OSError, MemoryError, KeyboardInterrupt) as error:
        error.add_note(describe_resume(config, getattr(error, "when_resumed", "")))
        raise
    print(f"published {version.path}" if version else "trained; worker 0 publishes")
    if version and (warning := compare(version.config.scores)):
        print(f"{program('train')}: warning: {warning}", file=sys.stderr)


def _read_teacher(path: Path) -> Version:
    try:
        return artifact.read(artifact.find(path))
    except ArtifactError as error:
        raise RunConflict(f"--teacher: {error}") from error


@contextmanager
def _stop_on_signals() -> Iterator[Event]:
    """Yields an Event that the first SIGINT or SIGTERM sets. A second signal raises KeyboardInterrupt.

    A KeyboardInterrupt raised inside TensorFlow can abort the process.
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


if __name__ == "__main__":
    sys.exit(main())
