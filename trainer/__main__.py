"""python -m trainer [train]: one run, from a text to a published version.

Checks what it is asked before TensorFlow is imported, so that a mistake shows at once: one line, exit code 2.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from threading import Event
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from trainer import checkpoints, corpus
from trainer.artifact import ArtifactError
from trainer.config import TooLarge, TrainingConfig, check_memory
from trainer.corpus import CorpusError

NEEDED = ("filelock", "keras", "matplotlib", "tensorflow")  # what the extra `trainer` adds to the service's packages


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 published, 1 failed on the way, 2 asked for what can't be done, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["train"]:
        given = given[1:]
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return _fail(2, f"{', '.join(missing)} not installed; `make setup` brings what training needs beside serving")
    from filelock import FileLock, Timeout

    try:
        config = TrainingConfig(**_flags(given))
        config.work_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(config.work_dir / "lock", timeout=0):
            return _train(config)
    except ValidationError as error:
        return _fail(2, "; ".join(_said(fault["loc"], fault["msg"]) for fault in error.errors()))
    except SettingsError as error:  # a list in a variable
        return _fail(2, f'{error}; a list is written as JSON: ["a.txt", "b.txt"]')
    except Timeout:
        return _fail(2, f"another run is training {config.name!r} in {config.models_dir}; wait for it, or give another --name")
    except (CorpusError, TooLarge) as error:
        return _fail(2, str(error))
    except ArtifactError as error:
        return _fail(1, str(error))
    except OSError as error:
        return _fail(1, f"{error.filename or config.work_dir}: {error.strerror or error}")
    except KeyboardInterrupt:
        return _fail(130, f"interrupted; finished epochs are kept in {config.work_dir} until the next run")


def _train(config: TrainingConfig) -> int:
    text = corpus.read(config.corpus, config.work_dir)
    corpus.check_length(len(text.ids), config.seq_length, config.batch_size)
    check_memory(config, text.vocabulary.characters)
    checkpoints.clear(config.work_dir)  # an earlier run's, once this one can start
    print(f"{len(text.ids):,} characters, {len(text.vocabulary)} distinct")

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its notes on instruction sets help nobody here
    from trainer.loop import Diverged, train

    try:
        with _stopped_by_signals() as stop:
            version = train(config, text, stop)
    except Diverged as error:
        return _fail(1, f"{error}; finished epochs are kept in {config.work_dir} until the next run")
    print(f"published {version.path}")
    return 0


@contextmanager
def _stopped_by_signals() -> Iterator[Event]:
    """Set by Ctrl-C or SIGTERM: raised in the middle of TensorFlow, an interrupt can abort the process. A second one does raise."""
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


def _flags(arguments: Sequence[str]) -> dict[str, Any]:
    """The flags given, as strings by field: one for each field of TrainingConfig, which checks them.

    Ours and not pydantic-settings's, which joins a list's values with commas and drops all but the last of a repeated flag.
    """
    parser = argparse.ArgumentParser(prog="python -m trainer [train]", description=TrainingConfig.__doc__, allow_abbrev=False)
    for name, field in TrainingConfig.model_fields.items():
        flag, default = "--" + name.replace("_", "-"), "" if field.default_factory else f" (default: {field.default})"
        several: dict[str, Any] = {"nargs": "+", "action": "extend", "metavar": "FILE"} if name == "corpus" else {}
        parser.add_argument(flag, default=argparse.SUPPRESS, help=f"{field.description}{default}", **several)
    return vars(parser.parse_args(arguments))


def _said(place: Sequence[int | str], message: str) -> str:
    option = "--" + str(place[0]).replace("_", "-") if place else ""
    return f"{option}: {message}" if option else message


def _fail(code: int, message: str) -> int:
    print(f"python -m trainer: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
