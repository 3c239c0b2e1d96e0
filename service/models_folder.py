"""A models folder on disk: its models, their versions, and what a version's files say. Knows nothing of engines and HTTP."""

from pathlib import Path

from pydantic import ValidationError

from service.chat import ChatTemplate
from trainer import artifact
from trainer.artifact import ArtifactError, Version, VersionConfig
from trainer.vocabulary import Vocabulary

PINNED = "PINNED"  # in a model's folder: the number of the version to serve instead of the newest
CHAT = "chat.json"  # in a model's folder: its chat template
SAMPLE = "sample.txt"  # in a version's folder: texts that the model generated when it was published
MAX_SUGGESTION = 40  # characters of a suggested start string


def models(models_dir: Path) -> tuple[list[Path], str]:
    """(The models' folders by name; an error message if none holds a published version, else "")."""
    try:
        folders = sorted(path for path in models_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        return [], f"{models_dir}: {error.strerror or error}"
    return folders, "" if any(map(holds_version, folders)) else f"{models_dir}: holds no published version"


def holds_version(model: Path) -> bool:
    """Whether a model's folder holds a published version. False if the folder cannot be read."""
    try:
        return bool(artifact.versions(model))
    except OSError:
        return False


def find_model(models_dir: Path, name: str | None, default: str = "shakespeare") -> Path:
    """The folder of the model `name`; without a name that of the only model, or of `default`. Raises ValueError."""
    folders, empty = models(models_dir)
    if empty:
        raise ValueError(empty)
    names = [path.name for path in folders if holds_version(path)]
    if name is None:
        name = names[0] if len(names) == 1 else default
    if name not in names:
        raise ValueError(f"no model {name!r} in {models_dir}; there are: {', '.join(names)}")
    return models_dir / name


def candidates(model: Path) -> list[Path]:
    """The versions to try, best first: the pinned version alone, or all from newest to oldest.

    Raises OSError if the folder or the pin cannot be read, and ValueError if the pin is not a version number.
    """
    content = _read_optional(model / PINNED)
    if content is None:
        return [model / str(version) for version in reversed(artifact.versions(model))]
    pinned = content.decode().strip()
    if not artifact.is_version(pinned):
        raise ValueError(f"{PINNED} holds {pinned[:20]!r}, expected a version number")
    return [model / pinned]


def read_chat_template(model: Path) -> ChatTemplate:
    """The model's chat template, or the default one. Raises OSError or ValueError if its file is not valid."""
    content = _read_optional(model / CHAT)
    if content is None:
        return ChatTemplate()
    try:
        return ChatTemplate.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{CHAT}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def read_version(path: Path) -> Version:
    """Like `artifact.read`, but also raises ArtifactError if the folder does not have the version's own name and number."""
    version = artifact.read(path)
    check_place(path, version.config)
    return version


def check_place(path: Path, config: VersionConfig) -> None:
    """Raises ArtifactError if the folder does not have the version's own name and number."""
    published = f"{config.name}/{config.version}"
    if published != f"{path.parent.name}/{path.name}":
        raise ArtifactError(f"{path}: was published as {published}: copy it to a folder of that name")


def suggest_start_string(version: Path, vocabulary: Vocabulary) -> str:
    """A text that the model can continue: the beginning of its sample's first line, or a single character."""
    try:
        text = (version / SAMPLE).read_bytes()[: 4 * MAX_SUGGESTION].decode(errors="replace")
    except OSError:
        text = ""
    line = text.splitlines(keepends=True)[0][:MAX_SUGGESTION] if text else ""
    if line.strip() and set(line) <= set(vocabulary.characters):
        return line
    return next(filter(str.isalnum, vocabulary.characters), vocabulary.characters[0])


def fingerprint(version: Path) -> object:
    """Names, sizes and times of a version's files, to compare with an earlier fingerprint. Never None."""
    try:
        return sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in version.iterdir())
    except OSError as error:
        return str(error)


def _read_optional(file: Path) -> bytes | None:
    """None if the file does not exist. A dangling link is a ValueError: its creator meant the file to exist."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        if file.is_symlink():
            raise ValueError(f"{file.name} is a dangling link") from None
        return None
