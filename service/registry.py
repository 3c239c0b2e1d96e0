"""Which versions are in the models folder, and which of them are loaded: the newest valid one of each model, at any time."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from service.chat import ChatTemplate
from service.generation.backend import Precision
from service.generation.backends import Unsupported
from service.generation.engine import Engine
from service.malloc import give_back
from trainer import artifact
from trainer.artifact import ArtifactError, Version, VersionConfig
from trainer.vocabulary import Vocabulary

log = logging.getLogger(__name__)

PINNED = "PINNED"  # a file in a model's folder that names the version to serve instead of the newest
SAMPLE = "sample.txt"  # a file in a version's folder: texts of the model, as it was when it was published
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
    engine_name: str  # of its backend, as in "native"
    precision: Precision
    arithmetic: str  # of its backend
    files: frozenset[str]  # names in its folder, when it was loaded
    start_string: str  # one that it can continue
    chat: ChatTemplate


@dataclass(frozen=True)
class Refused:
    """Why a version, all of a model's, or its template is not served, or the models folder not followed."""

    reason: str
    files: object | None  # as they were then, if they are to blame: until they change it is not tried again


class Registry:
    """The models of a folder, kept up to date with it by `refresh` or `watch`, off the event loop.

    A new version is loaded and warmed beside the one that serves, then takes all new requests; the old one is freed when it
    has ended its last. A version that can't be loaded is refused, and tried again when its files have changed; or at the next
    refresh, if its files were not to blame.
    """

    def __init__(
        self,
        models_dir: Path,
        default_model: str,
        open_engine: Callable[[Version], Engine],
        on_loop: Callable[[Callable[[], None]], object] = lambda function: function(),
        aliases: Mapping[str, str] | None = None,
        any_model: bool = False,
    ) -> None:
        """on_loop: calls a function on the event loop, where requests are taken. aliases: models' names by other names.
        any_model: a name that is none of these means the default model."""
        self._aliases, self._any_model = aliases or {}, any_model
        self._models_dir, self._default, self._open_engine, self._on_loop = models_dir, default_model, open_engine, on_loop
        # `refresh`, in a thread, never changes these two but puts new ones in their place: who reads one sees all of it.
        self._models: Mapping[str, Model] = {}
        self._refused: Mapping[Path, Refused] = {}
        self._replaced: list[Model] = []  # with what they are still generating
        self._lock = threading.Lock()  # so that nobody misses an engine, or counts one twice, that `refresh` is just moving
        self._ended = threading.Event()
        self.looked = threading.Event()  # has refreshed once: what can be served is loaded
        self._draining: str | None = None
        self.refusals = 0  # so far
        self.not_ready: str | None = "models are being loaded"  # until all have been tried; what is loaded serves before

    def watch(self, seconds: float) -> None:
        """Refreshes at once, then after every so many seconds until the registry is ended; 0: only once."""
        while True:
            try:
                self.refresh()
            except Exception as error:
                log.exception("looking for versions failed; what is served goes on")
                self._conclude(f"looking for versions failed: {error!r}")
            finally:
                self.looked.set()
            if not seconds or self._ended.wait(seconds):
                return

    def refresh(self) -> None:
        """Loads and starts every model's newest valid version that is not loaded yet; drops the models that are gone."""
        self._free_replaced()
        missing = f"{self._models_dir}: holds no published version"
        try:
            folders = sorted(path for path in self._models_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
        except OSError as error:
            folders, missing = [], f"{self._models_dir}: {error.strerror or error}"
        if self._models and not any(map(holds_version, folders)):  # more likely a lost volume than all models removed at once
            self._refuse(self._models_dir, f"{missing}; what is loaded is served on", None)
            return
        unserved = {path for folder in folders for path in self._refresh_model(folder)}
        self._refused = {path: refused for path, refused in self._refused.items() if path in unserved}
        for name in self._models.keys() - {folder.name for folder in folders}:
            log.info("%s is gone from %s and not served any more", name, self._models_dir)
            self._replace(name, None)
        self._conclude("; ".join(self.refused) or missing)

    def _conclude(self, reason: str) -> None:
        """Ready if anything is served; if not, that is why."""
        with self._lock:
            if self._ended.is_set():
                return
            before, self.not_ready = self.not_ready, None if self._models else f"no model can be served: {reason}"
        if self.not_ready and self.not_ready != before:
            log.error("%s", self.not_ready)

    def _refresh_model(self, folder: Path) -> list[Path]:
        """Serves the best of a model's versions that can be loaded; returns what is refused instead: better ones, its template."""
        try:
            paths = candidates(folder)
        except (OSError, ValueError) as error:
            self._refuse(folder, f"{folder}: {error}", None)
            return [folder]
        serving, no_template = self._models.get(folder.name), []
        try:
            chat = chat_template(folder)
        except (OSError, ValueError) as error:
            self._refuse(folder / CHAT, f"{folder}: {error}", None)
            chat, no_template = serving.chat if serving else ChatTemplate(), [folder / CHAT]
        for better, path in enumerate(paths):
            if self._ended.is_set():
                break
            if serving and path == serving.path and not serving.engine.stopped:
                if chat != serving.chat:
                    self._models = {**self._models, folder.name: replace(serving, chat=chat)}
                return paths[:better] + no_template
            refused, files = self._refused.get(path), files_of(path)
            if refused and refused.files == files:
                continue
            if model := self._load(path, files, chat):
                self._replace(folder.name, model)
                return paths[:better] + no_template
        return paths + no_template

    def _load(self, path: Path, files: object, chat: ChatTemplate) -> Model | None:
        """files: as they were before, so that a change while they are read is seen by the next refresh."""
        try:
            version = read_own(path)
            vocabulary = Vocabulary(version.config.vocabulary)
            engine = self._open_engine(version)
            model = Model(
                path=path,
                config=version.config,
                vocabulary=vocabulary,
                engine=engine,
                engine_name=engine.backend.name,
                precision=engine.backend.precision,
                arithmetic=engine.backend.arithmetic,
                files=frozenset(file.name for file in path.iterdir()),
                chat=chat,
                start_string=suggest_start_string(path, vocabulary),
            )
            engine.start()
        except Exception as error:
            # Whatever is wrong with one version, an older one or another model can still be served.
            expected = isinstance(error, ArtifactError | Unsupported)
            reason = str(error) if isinstance(error, ArtifactError) else f"{path}: {error if expected else repr(error)}"
            # A file that can't be read just now, or memory that others hold, is not the version's fault.
            at_fault = expected and not isinstance(error.__cause__, OSError)
            self._refuse(path, reason, files if at_fault else None, exc_info=not expected)
            return None
        log.info("serving %s, %s parameters", path, f"{version.config.parameters:,}")
        return model

    def _refuse(self, path: Path, reason: str, files: object | None, *, exc_info: bool = False) -> None:
        reason = reason.encode("utf-8", "backslashreplace").decode()  # a folder's name may hold bytes that are not UTF-8
        if path not in self._refused or self._refused[path].reason != reason:
            log.warning("refused %s", reason, exc_info=exc_info)
            self.refusals += 1
        self._refused = {**self._refused, path: Refused(reason, files)}

    def _replace(self, name: str, model: Model | None) -> None:
        with self._lock:
            models = dict(self._models)
            if before := models.pop(name, None):
                self._replaced.append(before)
            if model:
                models[name] = model
                if self._ended.is_set():
                    model.engine.end(str(self.not_ready))
            self._models = models

    def _free_replaced(self) -> None:
        """Ends the replaced engines that have nothing left to do: on the loop, where a request gets one and submits in one step."""
        freed = False
        for model in list(self._replaced):
            if model.engine.stopped and not model.engine.hung:  # a call that hangs is not waited for
                model.engine.join()
                with self._lock:
                    self._replaced.remove(model)
                freed = True
            else:
                self._on_loop(partial(model.engine.end_if_idle, f"{model.path} was replaced"))
            del model  # or its memory would not be free below
        if freed:
            give_back()

    @property
    def refused(self) -> list[str]:
        """Why versions and templates that would be served are not, and why the models folder is not followed."""
        return [refused.reason for refused in self._refused.values()]

    @property
    def ended(self) -> str | None:
        """Why it has ended, once it has."""
        return self.not_ready if self._ended.is_set() else None

    def check_ready(self) -> None:
        """Raises NotReady until models are served, after `drain`, and while an engine is dead."""
        if why := self.not_ready or self._draining:
            raise NotReady(why)
        self.check_alive()

    def check_alive(self) -> None:
        """Raises NotReady while an engine is dead, until the next refresh has put another in its place; and while one hangs."""
        for name, model in self._models.items():
            if why := model.engine.stopped if model.engine.failed else model.engine.hung:
                raise NotReady(f"{name}: {why}")

    def get(self, name: str | None) -> Model:
        """The model `name`; without a name the default one, or the only one, once that is known.

        Raises NotReady where it may yet be loaded and once ended, else UnknownModel.
        """
        why, models = self.not_ready, self._models  # in this order: without a reason there are models
        name = name or None
        if name is not None and name not in models:
            name = self._aliases.get(name, None if self._any_model and not why else name)
        if name is None and len(models) == 1 and not why:
            return next(iter(models.values()))
        wanted = self._default if name is None else name
        if wanted in models and not self.ended:
            return models[wanted]
        if why:
            raise NotReady(why)
        raise UnknownModel(f"no model {wanted!r} here; there are: {', '.join(sorted(models))}")

    @property
    def models(self) -> list[Model]:
        """All that are served, however many are still being loaded. Raises NotReady where there are none, and once ended."""
        if (why := self.not_ready) and (self.ended or not self._models):
            raise NotReady(why)
        return self.loaded

    @property
    def loaded(self) -> list[Model]:
        """The same, but none before there are any."""
        return sorted(self._models.values(), key=lambda model: model.config.name)

    @property
    def at_work(self) -> list[Model]:
        """Those that are served and those that have been replaced but still finish what they had begun."""
        with self._lock:
            return [*self._models.values(), *self._replaced]

    def is_default(self, model: Model) -> bool:
        """Requests that name no model get this one."""
        return model.config.name == self._default or (len(self._models) == 1 and not self.not_ready)

    def drain(self, why: str) -> None:
        """No longer ready, but still serving whoever asks."""
        self._draining = why

    def end(self, why: str) -> None:
        """Ends what every engine is generating, with the reason; nothing more is loaded or served."""
        with self._lock:
            self.not_ready = why
            self._ended.set()
            for model in (*self._models.values(), *self._replaced):
                model.engine.end(why)

    def close(self) -> None:
        """Waits for the engines, once ended."""
        for model in (*self._models.values(), *self._replaced):
            model.engine.join()


def read_own(path: Path) -> Version:
    """A version by `artifact.read`; one that was published under another name or number is an ArtifactError too."""
    version = artifact.read(path)
    published = f"{version.config.name}/{version.config.version}"
    if published != f"{path.parent.name}/{path.name}":
        raise ArtifactError(f"{path}: was published as {published}: copy it to a folder of that name")
    return version


def suggest_start_string(path: Path, vocabulary: Vocabulary, longest: int = 40) -> str:
    """The first line of a version's sample, at most `longest` characters; without a usable one, a character of the vocabulary."""
    try:
        text = (path / SAMPLE).read_bytes()[: 4 * longest].decode(errors="replace")
    except OSError:
        text = ""
    line = text.splitlines(keepends=True)[0][:longest] if text else ""
    if line.strip() and set(line) <= set(vocabulary.characters):
        return line
    return next(filter(str.isalnum, vocabulary.characters), vocabulary.characters[0])


def files_of(path: Path) -> object:
    """Equal only for files that have not changed; never None."""
    try:
        return sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in path.iterdir())
    except OSError as error:
        return str(error)


def holds_version(model: Path) -> bool:
    """Something is published in the folder, as far as it can be read."""
    try:
        return bool(artifact.versions(model))
    except OSError:
        return False


def read_if_there(file: Path) -> bytes | None:
    """None where there is no such file. Raises OSError, or ValueError for a link to nothing: whoever made it meant a file."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        if file.is_symlink():
            raise ValueError(f"{file.name} is a link to nothing") from None
        return None


def candidates(model: Path) -> list[Path]:
    """The versions to try, best first: newest to oldest, or the pinned one alone.

    Raises OSError or ValueError where the folder or the pin can't be read, or the pin is no version number.
    """
    content = read_if_there(model / PINNED)
    if content is None:
        return [model / str(version) for version in reversed(artifact.versions(model))]
    pinned = content.decode().strip()
    if not artifact.is_version(pinned):
        raise ValueError(f"{PINNED} holds {pinned[:20]!r}, expected a version number")
    return [model / pinned]


def chat_template(model: Path) -> ChatTemplate:
    """The template in the model's folder, or a play's if there is none. Raises OSError or ValueError if it can't be read."""
    content = read_if_there(model / CHAT)
    if content is None:
        return ChatTemplate()
    try:
        return ChatTemplate.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{CHAT}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
