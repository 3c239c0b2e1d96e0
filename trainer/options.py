"""Flags and TRAINER_* variables -> a run's options, and those of a run that is resumed. Knows nothing of texts or networks."""

import argparse
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer import artifact
from trainer.artifact import Version
from trainer.config import RECIPES, TrainingConfig

ARCHITECTURE = ("cell", "layers", "units", "embedding")
MAY_CHANGE = {"name", "models_dir", "corpus", "epochs", "learning_rate", "patience", "save_every"}  # when a run is resumed
# What a run did that an earlier release began, before these options existed.
BEFORE = {"newlines": "keep", "init_from": None}
LONGEST_NAME = 100


class RunConflict(Exception):
    """The options contradict each other or the state on disk."""


@dataclass(frozen=True)
class Options:
    """given: the fields of `config` that a flag or a variable sets; `name` may be derived from the corpus file instead."""

    config: TrainingConfig
    given: frozenset[str]
    resume: bool
    fresh: bool


def read_options(arguments: Sequence[str]) -> Options:
    """Raises RunConflict when no name can be derived, pydantic's ValidationError and SettingsError."""
    flags = _parse_flags(arguments)
    resume, fresh = flags.pop("resume", False), flags.pop("fresh", False)
    config = TrainingConfig(**flags)
    variables = {name.upper() for name, value in os.environ.items() if value}
    given = flags.keys() | {name for name in TrainingConfig.model_fields if f"TRAINER_{name}".upper() in variables}
    if "name" not in given:
        config = config.model_copy(update={"name": _derive_name(config, given)})
    return Options(config, frozenset(given), resume, fresh)


def resume_config(options: Options, progress: dict[str, Any] | None) -> TrainingConfig:
    """The interrupted run's options, with those changed that may be. Raises RunConflict."""
    config = options.config
    if progress is None:
        raise RunConflict(f"{config.work_dir}: there is no interrupted run of {config.name!r} to resume{_ways_on(config)}")
    begun = BEFORE | progress["config"]
    asked = config.model_dump(mode="json", include=set(options.given))
    if asked.get("precision") == "auto":
        del asked["precision"]  # asks for nothing in particular, and what it meant when the run was begun is in `begun`
    for option in sorted(asked.keys() - MAY_CHANGE):
        if asked[option] != begun[option]:
            raise RunConflict(
                f"--{option.replace('_', '-')}: the interrupted run was begun with {begun[option]}; leave it out, "
                "or begin anew with --fresh"
            )
    return TrainingConfig(**begun | asked | {"models_dir": config.models_dir, "name": config.name})


def take_architecture(options: Options, version: Version) -> Options:
    """The options with the version's architecture. Raises RunConflict where an option asks for another."""
    of_version = {name: getattr(version.config, name) for name in ARCHITECTURE}
    for name, value in of_version.items():
        if name in options.given and getattr(options.config, name) != value:
            raise RunConflict(f"--{name}: {version.path}, which --init-from names, has {value}; leave --{name} out")
    return replace(options, config=options.config.model_copy(update=of_version))


def _derive_name(config: TrainingConfig, given: set[str]) -> str:
    if "corpus" in given:
        return _name_after(config.corpus)
    if config.init_from is not None:  # the model is trained further
        path = config.init_from.absolute()
        return path.parent.name if artifact.is_version(path.name) else path.name
    return config.name


def _name_after(files: Sequence[Path]) -> str:
    """The only file's name without its ending, in lower case, as a model's name. Raises RunConflict if that is none.

    Accents are dropped, and spaces and punctuation become hyphens. A name is never cut, and no letter is dropped: two
    files could come out with the same name.
    """
    if len(files) > 1:
        raise RunConflict("--corpus names several files, so the model has no name of its own; give it one with --name")
    letters = [c for c in unicodedata.normalize("NFKD", files[0].stem.casefold()) if not unicodedata.combining(c)]
    name = re.sub(r"[^a-z0-9._-]+", "-", "".join(letters)).strip("._-")
    lost = any(c.isalnum() or not c.isprintable() for c in letters if not c.isascii())
    if lost or not name or len(name) > LONGEST_NAME:
        raise RunConflict(
            f"{files[0]}: this file's name makes no model name, which has at most {LONGEST_NAME} of a-z, 0-9, '.', '_' and '-'; "
            "give one with --name"
        )
    return name


def _ways_on(config: TrainingConfig) -> str:
    """What to do about a run that is finished; empty when nothing was published."""
    model = config.models_dir / config.name
    published = artifact.versions(model)
    if not published:
        return ""
    newest = model / str(published[-1])
    return f": it is finished, and {newest} is its newest version; --init-from {newest} trains that further, --fresh begins anew"


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
        has_default = not field.default_factory and field.default is not None
        default = f" ({of_recipe})" if of_recipe else f" (default: {field.default})" if has_default else ""
        several: dict[str, Any] = {"nargs": "+", "action": "extend", "metavar": "FILE"} if name == "corpus" else {}
        parser.add_argument(flag, default=argparse.SUPPRESS, help=f"{field.description}{default}", **several)
    return vars(parser.parse_args(arguments))
