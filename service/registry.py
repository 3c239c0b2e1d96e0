"""The served models: loads the newest valid version of each, swaps versions while serving, and frees replaced ones."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path

from service import models_folder
from service.chat import ChatTemplate
from service.generation.backends import Unsupported
from service.generation.engine import Engine
from service.malloc import release_free_memory
from service.refusals import Refusals
from trainer.artifact import ArtifactError, Version, VersionConfig
from trainer.vocabulary import Vocabulary

log = logging.getLogger(__name__)


class NotReady(Exception):
    """The model cannot be served now. The message says why."""


class UnknownModel(Exception):
    """No model of that name is served. The message lists the names of those that are."""


class Readiness(Enum):
    LOADING = "loading"  # the first refresh has not ended; models that are loaded are already served
    READY = "ready"
    FAILED = "failed"  # no model could be loaded; the next refresh tries again
    DRAINING = "draining"  # the server will stop: /readyz fails, requests are still served
    STOPPED = "stopped"


SETTLED = (Readiness.READY, Readiness.DRAINING)  # it is known which models are served


@dataclass(frozen=True)
class Model:
    """A loaded version and the engine that runs it."""

    path: Path
    config: VersionConfig
    vocabulary: Vocabulary
    engine: Engine
    engine_name: str  # its backend's name, such as "native"
    precision: str
    arithmetic: str  # its backend's
    files: frozenset[str]  # the names of its files when it was loaded
    start_string: str  # an example that it can continue
    chat: ChatTemplate

    @property
    def weights_digest(self) -> str:
        """The beginning of the SHA-256 of its weights."""
        return self.config.sha256.weights[:12]


class Registry:
    """The models of a folder. `refresh` and `watch` follow the folder's changes, off the event loop.

    A new version is loaded while the old one serves. Then it receives all new requests, and the old one is freed when it has
    finished its own. A refused version is tried again once its files change, or at each refresh if they are not to blame.
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
        """on_loop: schedules a function on the event loop, which submits requests. aliases: alias -> model name.
        any_model: an unknown name means the default model."""
        self._aliases, self._any_model = aliases or {}, any_model
        self._models_dir, self._default, self._open_engine, self._on_loop = models_dir, default_model, open_engine, on_loop
        self._models: Mapping[str, Model] = {}  # replaced, never changed, so that other threads read a consistent one
        self._replaced: list[Model] = []  # still generating for earlier requests
        self.refusals = Refusals()
        self._changed = threading.Condition()  # guards _state, and the moves of a model from _models to _replaced
        self._state = (Readiness.LOADING, "models are being loaded")  # the readiness and its reason

    @property
    def readiness(self) -> Readiness:
        return self._state[0]

    def watch(self, seconds: float) -> None:
        """Refreshes now and then every `seconds` until the registry is stopped. 0: refreshes once."""
        while True:
            try:
                self.refresh()
            except Exception as error:
                log.exception("checking for new versions failed; loaded models continue to be served")
                self._conclude(f"checking for versions failed: {error!r}")
            with self._changed:
                if not seconds or self._changed.wait_for(lambda: self.readiness is Readiness.STOPPED, seconds):
                    return

    def wait_until_loaded(self, timeout: float | None = None) -> bool:
        """Waits for the end of the first refresh. Returns whether it has ended, or the registry is stopping."""
        with self._changed:
            return self._changed.wait_for(lambda: self.readiness is not Readiness.LOADING, timeout)

    def refresh(self) -> None:
        """Loads each model's newest valid version unless it is loaded already, and drops models that are gone."""
        self._free_replaced()
        folders, empty = models_folder.models(self._models_dir)
        if empty and self._models:  # a lost volume is more likely than the removal of all models
            self.refusals.add(self._models_dir, f"{empty}; loaded models continue to be served")
            return
        self.refusals.keep({path for folder in folders for path in self._refresh_model(folder)})
        for name in self._models.keys() - {folder.name for folder in folders}:
            log.info("%s was removed from %s and is no longer served", name, self._models_dir)
            self._replace(name, None)
        self._conclude("; ".join(self.refusals.reasons) or empty)

    def _conclude(self, reason: str) -> None:
        """Ends a refresh: READY if any model is loaded, else FAILED for that reason. DRAINING and STOPPED are kept."""
        state = (Readiness.READY, "") if self._models else (Readiness.FAILED, f"no model can be served: {reason}")
        with self._changed:
            if self.readiness in (Readiness.DRAINING, Readiness.STOPPED) or state == self._state:
                return
            self._set_state(*state)
        if not self._models:
            log.error("%s", state[1])

    def _set_state(self, readiness: Readiness, reason: str) -> None:
        self._state = (readiness, reason)
        self._changed.notify_all()

    def _refresh_model(self, folder: Path) -> list[Path]:
        """Serves the best version of a model that can be loaded. Returns what is refused: better versions, its chat template."""
        try:
            paths = models_folder.candidates(folder)
        except (OSError, ValueError) as error:
            self.refusals.add(folder, f"{folder}: {error}")
            return [folder]
        serving, refused = self._models.get(folder.name), list[Path]()
        try:
            chat = models_folder.read_chat_template(folder)
        except (OSError, ValueError) as error:
            self.refusals.add(folder / models_folder.CHAT, f"{folder}: {error}")
            chat = serving.chat if serving else ChatTemplate()
            refused.append(folder / models_folder.CHAT)
        for path in paths:
            if self.readiness is Readiness.STOPPED:
                break
            if serving and path == serving.path and not serving.engine.stopped:
                if chat != serving.chat:
                    self._models = {**self._models, folder.name: replace(serving, chat=chat)}
                break
            if model := self._load(path, chat):
                self._replace(folder.name, model)
                break
            refused.append(path)
        return refused

    def _load(self, path: Path, chat: ChatTemplate) -> Model | None:
        """Loads a version and starts its engine. Returns None if the version is refused."""
        files = models_folder.fingerprint(path)  # before they are read: the next refresh sees a change in between
        if self.refusals.holds(path, files):
            return None
        try:
            model = self._open(path, chat)
            model.engine.start()
        except Exception as error:
            # An older version or another model can still be served.
            expected = isinstance(error, ArtifactError | Unsupported)
            reason = str(error) if isinstance(error, ArtifactError) else f"{path}: {error if expected else repr(error)}"
            # The files are not to blame for an I/O error or a lack of memory.
            to_blame = expected and not isinstance(error.__cause__, OSError | MemoryError)
            self.refusals.add(path, reason, files if to_blame else None, exc_info=not expected)
            return None
        log.info("serving %s, %s parameters", path, f"{model.config.parameters:,}")
        return model

    def _open(self, path: Path, chat: ChatTemplate) -> Model:
        version = models_folder.read_version(path)
        vocabulary = Vocabulary(version.config.vocabulary)
        engine = self._open_engine(version)
        return Model(
            path=path,
            config=version.config,
            vocabulary=vocabulary,
            engine=engine,
            engine_name=engine.backend.name,
            precision=engine.backend.precision,
            arithmetic=engine.backend.arithmetic,
            files=frozenset(file.name for file in path.iterdir()),
            start_string=models_folder.suggest_start_string(path, vocabulary),
            chat=chat,
        )

    def _replace(self, name: str, model: Model | None) -> None:
        """Serves the model under its name, or nothing under it. The one before finishes its requests."""
        with self._changed:
            if before := self._models.get(name):
                self._replaced.append(before)
            if model and (stopped := self.stop_reason):
                model.engine.end(stopped)
            self._models = {other: kept for other, kept in {**self._models, name: model}.items() if kept}

    def _free_replaced(self) -> None:
        """Frees the replaced engines that have ended, and ends the idle ones."""
        freed = False
        for model in list(self._replaced):
            if model.engine.stopped and not model.engine.hung:  # joining a hung engine would block
                model.engine.join()
                with self._changed:
                    self._replaced.remove(model)
                freed = True
            else:  # on the event loop, so not between a request's last look for its engine and its submission
                self._on_loop(partial(model.engine.end_if_idle, f"{model.path} was replaced"))
            del model  # this reference would keep its memory
        if freed:
            release_free_memory()

    @property
    def stop_reason(self) -> str | None:
        """Why the registry was stopped, or None."""
        readiness, reason = self._state
        return reason if readiness is Readiness.STOPPED else None

    def check_ready(self) -> None:
        """Raises NotReady unless READY, and while an engine is dead or hangs."""
        readiness, reason = self._state
        if readiness is not Readiness.READY:
            raise NotReady(reason)
        self.check_alive()

    def check_alive(self) -> None:
        """Raises NotReady while an engine hangs, and while one is dead, until a refresh has replaced it."""
        for name, model in self._models.items():
            if why := model.engine.stopped if model.engine.failed else model.engine.hung:
                raise NotReady(f"{name}: {why}")

    def get(self, name: str | None) -> Model:
        """The model of that name or alias. Without a name: the default model, or the only model there is.

        Raises NotReady if the model may still be loaded or the registry is stopped, else UnknownModel.
        """
        readiness, reason = self._state  # read before the models: READY means that there are some
        models, settled = self._models, readiness in SETTLED
        if name and name not in models:
            name = alias if (alias := self._aliases.get(name)) in models else None if self._any_model and settled else name
        if not name:
            name = next(iter(models)) if settled and len(models) == 1 else self._default
        if name in models and readiness is not Readiness.STOPPED:
            return models[name]
        if settled and models:
            raise UnknownModel(f"there is no model {name!r}; the models are: {', '.join(sorted(models))}")
        raise NotReady(reason or "no model is served")

    @property
    def models(self) -> list[Model]:
        """The served models by name, also while others are loaded. Raises NotReady if there are none or all are stopped."""
        readiness, reason = self._state
        if readiness is Readiness.STOPPED or not self._models:
            raise NotReady(reason or "no model is served")
        return self.loaded

    @property
    def loaded(self) -> list[Model]:
        """The loaded models by name."""
        return sorted(self._models.values(), key=lambda model: model.config.name)

    @property
    def loaded_and_replaced(self) -> list[Model]:
        """The loaded models, and replaced ones that still finish their requests."""
        with self._changed:
            return [*self._models.values(), *self._replaced]

    def is_default(self, model: Model) -> bool:
        """Whether requests without a model's name get this one."""
        return model.config.name == self._default or (len(self._models) == 1 and self.readiness in SETTLED)

    def drain(self, why: str) -> None:
        """Requests are still served, but the registry is no longer ready."""
        with self._changed:
            if self.readiness is not Readiness.STOPPED:
                self._set_state(Readiness.DRAINING, why)

    def end(self, why: str) -> None:
        """Stops every engine, with the reason for their requests. Nothing more is loaded or served."""
        with self._changed:
            self._set_state(Readiness.STOPPED, why)
            for model in self.loaded_and_replaced:
                model.engine.end(why)

    def close(self) -> None:
        """Waits, after `end`, until the engines' threads have ended."""
        for model in self.loaded_and_replaced:
            model.engine.join()
