"""Flags and TRAINER_* variables -> the options of a new or resumed run. Does not know texts or networks."""

import argparse
import os
import re
import shlex
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer import artifact, checkpoints
from trainer.artifact import MODEL_NAME, Version
from trainer.config import TrainingConfig, recipe_values
from trainer.errors import RunConflict
from trainer.program import invocation, program

ARCHITECTURE = ("cell", "layers", "units", "embedding")
# The options that may change when a run is resumed.
MAY_CHANGE = {"name", "models_dir", "corpus", "teacher", "epochs", "learning_rate", "patience", "save_every"}
# Values of options that are missing from a config saved by an earlier release.
EARLIER_RELEASES: dict[str, Any] = {
    "newlines": "keep", "init_from": None, "teacher": [], "teachers_at_a_time": 2, "text_share": 0.3
}  # fmt: skip
MAX_NAME_LENGTH = 100


@dataclass(frozen=True)
class Options:
    """given: the fields of `config` that a flag or a variable sets. `name` may be derived from the corpus file."""

    config: TrainingConfig
    given: frozenset[str]
    resume: bool
    fresh: bool


def read_options(arguments: Sequence[str]) -> Options:
    """Raises RunConflict if no name can be derived, and pydantic's ValidationError and SettingsError."""
    flags = _parse_flags(arguments)
    resume, fresh = flags.pop("resume", False), flags.pop("fresh", False)
    config = TrainingConfig(**flags)
    variables = {name.upper() for name, value in os.environ.items() if value}
    given = flags.keys() | {name for name in TrainingConfig.model_fields if f"TRAINER_{name}".upper() in variables}
    if "name" not in given:
        config = config.model_copy(update={"name": _derive_name(config, given)})
    return Options(config, frozenset(given), resume, fresh)


def resume_options(options: Options, progress: dict[str, Any] | None) -> Options:
    """The interrupted run's options, with the given ones that may change. Raises RunConflict and pydantic's ValidationError."""
    config = options.config
    if progress is None:
        raise RunConflict(f"{config.work_dir}: there is no interrupted run of {config.name!r} to resume{_alternatives(config)}")
    started = EARLIER_RELEASES | progress["config"]
    given = config.model_dump(mode="json", include=set(options.given))
    if given.get("precision") == "auto":
        del given["precision"]  # the run continues with the precision that it resolved when it started
    for option in sorted(given.keys() - MAY_CHANGE):
        if given[option] != started[option]:
            raise RunConflict(
                f"--{option.replace('_', '-')}: the interrupted run was started with {started[option]}; remove this option, "
                "or start again with --fresh"
            )
    done = progress["epoch"] - 1
    if config.epochs < done and "epochs" in given:
        raise RunConflict(f"--epochs: the interrupted run has finished {done} epochs; give that number or more")
    if given.get("teacher") and not started["teacher"]:
        raise RunConflict("--teacher: the interrupted run was started without teachers; remove this option, or start with --fresh")
    return replace(options, config=TrainingConfig(**started | given | {"models_dir": config.models_dir, "name": config.name}))


def check_combination(options: Options) -> None:
    """Raises RunConflict for options that make no sense together, such as those of teachers without a teacher."""
    config = options.config
    if config.patience and "patience" in options.given and not config.held_out:
        raise RunConflict("--patience needs held-out text, which shows whether a run still improves; remove it, or give --held-out")
    if bool(config.teacher) != (config.recipe == "student"):
        raise RunConflict("--recipe student needs --teacher, and --teacher needs --recipe student, its default")
    if not config.teacher:
        for name in ("teachers_at_a_time", "text_share"):
            if name in options.given:
                raise RunConflict(f"--{name.replace('_', '-')} needs --teacher; remove this option")
    elif config.examples != "streams":
        raise RunConflict("--examples: teachers write streams; remove this option")
    elif config.scheduled_sampling:
        raise RunConflict("--scheduled-sampling: a student does not read its own characters; remove this option")


def take_architecture(options: Options, version: Version) -> Options:
    """The options with the version's architecture. Raises RunConflict if a given option contradicts it."""
    architecture = {name: getattr(version.config, name) for name in ARCHITECTURE}
    for name, value in architecture.items():
        if name in options.given and getattr(options.config, name) != value:
            raise RunConflict(f"--{name}: {version.path}, given with --init-from, has {value}; remove --{name}")
    return replace(options, config=options.config.model_copy(update=architecture))


def check_not_interrupted(config: TrainingConfig, progress: dict[str, Any] | None) -> None:
    """Raises RunConflict if there is an interrupted run, which a new one would overwrite."""
    if progress is not None:
        position = _describe_position(progress, within=f"in epoch {progress['epoch']} of {progress['config']['epochs']}")
        raise RunConflict(
            f"a run of {config.name!r} was interrupted {position}; continue it with --resume, or discard it with --fresh"
        )


def describe_resume(config: TrainingConfig, changes: str = "") -> str:
    """What an error message says about how to resume. changes: what must be different then."""
    progress = checkpoints.load_progress(config.work_dir)
    if progress is None:
        if checkpoints.has_finished(config.work_dir):
            return _alternatives(config)
        return f"; nothing was saved yet{f'; start again{changes}' if changes else ''}"
    position = _describe_position(progress, within=f"after batch {progress['batch']} of epoch {progress['epoch']}")
    command = [*invocation("train"), "--resume", "--name", config.name, "--models-dir", str(config.models_dir)]
    return f"; saved {position}; resume with `{shlex.join(command)}`{changes}"


def _describe_position(progress: dict[str, Any], within: str) -> str:
    """Where a saved run is. within: the text for a position inside an epoch."""
    if progress["epoch"] > progress["config"]["epochs"]:
        return "after the last epoch, before publishing"
    return within if progress["batch"] else f"after epoch {progress['epoch'] - 1}"


def _alternatives(config: TrainingConfig) -> str:
    """What to do instead of resuming a run that has finished. Empty if nothing was published."""
    model = config.models_dir / config.name
    published = artifact.versions(model)
    if not published:
        return ""
    newest = model / str(published[-1])
    return f"; it finished, and its newest version is {newest}; train that further with --init-from {newest}, or start with --fresh"


def _derive_name(config: TrainingConfig, given: set[str]) -> str:
    if "corpus" in given:
        return _name_after(config.corpus)
    if config.init_from is not None:  # the same model is trained further
        path = Path(os.path.normpath(config.init_from.absolute()))
        name = path.parent.name if artifact.is_version(path.name) and not artifact.versions(path) else path.name
        if not re.fullmatch(MODEL_NAME, name):
            raise RunConflict(f"--init-from: {name!r} cannot be the name of a model; give one with --name")
        return name
    return config.name


def _name_after(files: Sequence[Path]) -> str:
    """A model name from the file's name, without its extension and in lower case. Raises RunConflict if there is none.

    Accents are dropped. Spaces and punctuation become hyphens. A name is never shortened and no letter is dropped, because two
    files could get the same name.
    """
    if len(files) > 1:
        raise RunConflict("--corpus has several files, so no name can be derived; give one with --name")
    letters = [c for c in unicodedata.normalize("NFKD", files[0].stem.casefold()) if not unicodedata.combining(c)]
    name = re.sub(r"[^a-z0-9._-]+", "-", "".join(letters)).strip("._-")
    lost = any(c.isalnum() or not c.isprintable() for c in letters if not c.isascii())
    if lost or not name or len(name) > MAX_NAME_LENGTH:
        raise RunConflict(
            f"{files[0]}: no model name can be derived from this file name; give one with --name, of at most {MAX_NAME_LENGTH} "
            "characters a-z, 0-9, '.', '_' and '-'"
        )
    return name


def _parse_flags(arguments: Sequence[str]) -> dict[str, Any]:
    """The given flags by field, as strings. There is a flag for each field of TrainingConfig, which validates them.

    pydantic-settings' own parser is not used: it joins a list's values with commas, and of a repeated flag it keeps only the last.
    """
    parser = argparse.ArgumentParser(
        prog=program("train"),
        description="Train a model on text files and publish it as a version. Options that are not given have the recipe's value.",
        epilog=f"`{program('evaluate')} --help`: score a published version.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--resume", action="store_true", help="continue the interrupted run of that name")
    mode.add_argument("--fresh", action="store_true", help="discard an interrupted run of that name and start again")
    for name, field in TrainingConfig.model_fields.items():
        recipes = ", ".join(f"{recipe}: {value}" for recipe, value in recipe_values(name).items())
        has_default = not field.default_factory and field.default is not None
        default = f" ({recipes})" if recipes else f" (default: {field.default})" if has_default else ""
        metavar = {"corpus": "FILE", "teacher": "VERSION"}.get(name)
        several: dict[str, Any] = {"nargs": "+", "action": "extend", "metavar": metavar} if metavar else {}
        parser.add_argument("--" + name.replace("_", "-"), help=f"{field.description}{default}", **several)
    return vars(parser.parse_args(arguments))
