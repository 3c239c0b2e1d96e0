"""Which versions are in the models folder, and which of them are loaded: the newest valid one of each model."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from service.chat import ChatTemplate
from service.generation.choice import Unsupported
from service.generation.engine import Engine
from trainer import artifact
from trainer.artifact import ArtifactError, Version, VersionConfig
from trainer.vocabulary import Vocabulary

log = logging.getLogger(__name__)

PINNED = "PINNED"  # a file in a model's folder that names the version to serve instead of the newest
CHAT = "chat.json"  # another, that says how a chat becomes a text


class NotReady(Exception):
    """No model can be served (yet); the message says why."""


class UnknownModel(Exception):
    """No model of that name is served; the message names those that are."""


@dataclass(frozen=True)
class Model:
    """A loaded version: what it is, and the engine that runs it."""

    path: Path
    config: VersionConfig
    vocabulary: Vocabulary
    engine: Engine
    chat: ChatTemplate


class Registry:
    """The models of a folder. `load` fills it, off the event loop; until then nothing is served."""

    def __init__(self, models_dir: Path, default_model: str, open_engine: Callable[[Version], Engine]) -> None:
        self._models_dir, self._default, self._open_engine = models_dir, default_model, open_engine
        self._models: dict[str, Model] = {}
        self._lock = threading.Lock()  # guards what `load`, in a thread, and `end` both change
        self._ended = False
        self.not_ready: str | None = "models are being loaded"

    def load(self) -> None:
        """Loads and starts every model's newest valid version; then `not_ready` is None, or says why nothing is served."""
        refused: list[str] = []
        try:
            for folder in sorted(path for path in self._models_dir.iterdir() if path.is_dir() and not path.name.startswith(".")):
                self._load_newest(folder, refused)
        except OSError as error:
            refused.append(f"{self._models_dir}: {error.strerror or error}")
        with self._lock:
            if self._ended:
                return
            if self._models:
                self.not_ready = None
                return
            self.not_ready = "no model can be served: " + ("; ".join(refused) or f"{self._models_dir} holds no published version")
        log.error("%s", self.not_ready)

    def _load_newest(self, folder: Path, refused: list[str]) -> None:
        """Loads one model; what is refused on the way is added with its reason."""
        try:
            paths, chat = candidates(folder), chat_template(folder)
        except (OSError, ValueError) as error:
            log.warning("refused %s: %s", folder, error)
            refused.append(f"{folder}: {error}")
            return
        for path in paths:
            if self._ended:
                return
            try:
                version = read_own(path)
                engine = self._open_engine(version)
                engine.start()
            except Exception as error:
                # Whatever one version does, an older one or another model can still be served.
                expected = isinstance(error, ArtifactError | Unsupported)
                reason = str(error) if isinstance(error, ArtifactError) else f"{path}: {error if expected else repr(error)}"
                log.warning("refused %s", reason, exc_info=not expected)
                refused.append(reason)
                continue
            with self._lock:
                self._models[folder.name] = Model(path, version.config, Vocabulary(version.config.vocabulary), engine, chat)
                if self._ended:
                    engine.end(str(self.not_ready))
            log.info("serving %s, %s parameters", path, f"{version.config.parameters:,}")
            return

    def check_ready(self) -> None:
        """Raises NotReady until models are served, and when an engine has died."""
        if self.not_ready is not None:
            raise NotReady(self.not_ready)
        for name, model in self._models.items():
            if model.engine.stopped:
                raise NotReady(f"{name}: {model.engine.stopped}")

    def get(self, name: str | None) -> Model:
        """The model `name`; without a name the default one, or the only one. Raises NotReady or UnknownModel."""
        if self.not_ready is not None:
            raise NotReady(self.not_ready)
        if name is None and len(self._models) == 1:
            return next(iter(self._models.values()))
        wanted = self._default if name is None else name
        try:
            return self._models[wanted]
        except KeyError:
            raise UnknownModel(f"no model {wanted!r} here; there are: {', '.join(self._models)}") from None

    @property
    def models(self) -> list[Model]:
        """All that are served. Raises NotReady."""
        if self.not_ready is not None:
            raise NotReady(self.not_ready)
        return list(self._models.values())

    def is_default(self, model: Model) -> bool:
        """Requests that name no model get it."""
        return model.config.name == self._default or len(self._models) == 1

    def end(self, why: str) -> None:
        """Ends what every engine is generating, with the reason; nothing more is loaded or served."""
        with self._lock:
            self._ended, self.not_ready = True, why
            for model in self._models.values():
                model.engine.end(why)

    def close(self) -> None:
        """Waits for the engines, once ended."""
        for model in self._models.values():
            model.engine.join()


def read_own(path: Path) -> Version:
    """A version as `artifact.read` has it; one that was published under another name or number is refused too."""
    version = artifact.read(path)
    published = f"{version.config.name}/{version.config.version}"
    if published != f"{path.parent.name}/{path.name}":
        raise ArtifactError(f"{path}: was published as {published}: copy it to a folder of that name")
    return version


def candidates(model: Path) -> list[Path]:
    """The versions to try, best first: newest to oldest, or the pinned one alone.

    Raises OSError or ValueError where the folder or the pin can't be read.
    """
    try:
        pinned = (model / PINNED).read_text().strip()
    except FileNotFoundError:
        return [model / str(version) for version in reversed(artifact.versions(model))]
    return [model / pinned]


def chat_template(model: Path) -> ChatTemplate:
    """The one that the model's folder holds, else a play's. Raises OSError or ValueError where it can't be read."""
    try:
        return ChatTemplate.model_validate_json((model / CHAT).read_bytes())
    except FileNotFoundError:
        return ChatTemplate()
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{CHAT}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
