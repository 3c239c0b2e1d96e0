import logging
from pathlib import Path
from typing import Any

import pytest

from service.registry import NotReady, Registry, UnknownModel
from tests.support import Publish
from trainer import artifact
from trainer.artifact import Version


class FakeEngine:
    def __init__(self, version: Version) -> None:
        self.version, self.started, self.joined, self.stopped = version, False, False, ""

    def start(self) -> None:
        self.started = True

    def end(self, why: str) -> None:
        self.stopped = why

    def join(self) -> None:
        self.joined = True


def registry(models: Path, open_engine: Any = FakeEngine) -> Registry:
    return Registry(models, "tiny", open_engine)


def test_until_it_has_loaded_nothing_is_served(tmp_path: Path, publish: Publish) -> None:
    publish()
    models = registry(tmp_path)
    with pytest.raises(NotReady, match="being loaded"):
        models.get("tiny")
    models.load()
    assert models.get("tiny").config.version == 1


def test_the_newest_version_of_every_model_is_served(tmp_path: Path, publish: Publish) -> None:
    for _ in range(11):
        publish("tiny")
    publish("other")
    models = registry(tmp_path)
    models.load()
    assert models.get(None).config.version == 11
    assert models.get("other").config.version == 1
    with pytest.raises(UnknownModel, match="no model 'absent' here; there are: other, tiny"):
        models.get("absent")


def test_the_only_model_needs_no_name(tmp_path: Path, publish: Publish) -> None:
    publish("dao")
    models = registry(tmp_path)
    models.load()
    assert models.get(None).config.name == "dao"


def test_a_broken_version_is_refused_with_its_reason_and_the_one_before_it_is_served(
    tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish()
    (publish().path / artifact.WEIGHTS).write_bytes(b"broken")
    models = registry(tmp_path)
    models.load()
    assert models.get("tiny").config.version == 1
    assert "refused" in caplog.text
    assert "tiny/2/weights.safetensors: SHA-256" in caplog.text


def test_a_version_under_another_name_or_number_is_refused(
    tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish()
    publish().path.rename(tmp_path / "tiny" / "7")
    models = registry(tmp_path)
    models.load()
    assert models.get("tiny").config.version == 1
    assert "tiny/7: was published as tiny/2" in caplog.text


def test_a_version_that_its_decoder_cannot_load_is_refused_too(tmp_path: Path, publish: Publish) -> None:
    publish(), publish()

    def open_engine(version: Version) -> FakeEngine:
        if version.config.version == 2:
            raise MemoryError("no room")
        return FakeEngine(version)

    models = registry(tmp_path, open_engine)
    models.load()
    assert models.get("tiny").config.version == 1


def test_a_pin_holds_the_version(tmp_path: Path, publish: Publish) -> None:
    for _ in range(3):
        publish()
    (tmp_path / "tiny" / "PINNED").write_text("2\n")
    models = registry(tmp_path)
    models.load()
    assert models.get("tiny").config.version == 2


def test_a_pin_on_a_version_that_is_not_there_is_not_ignored(tmp_path: Path, publish: Publish) -> None:
    publish()
    (tmp_path / "tiny" / "PINNED").write_text("5")
    models = registry(tmp_path)
    models.load()
    with pytest.raises(NotReady, match="tiny/5"):
        models.get("tiny")


def test_an_empty_or_missing_folder_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    for folder, reason in ((tmp_path, "holds no published version"), (tmp_path / "absent", "No such file")):
        models = registry(folder)
        models.load()
        with pytest.raises(NotReady, match=reason):
            models.check_ready()


def test_a_pin_that_cannot_be_read_refuses_its_model_and_no_other(tmp_path: Path, publish: Publish) -> None:
    publish("tiny"), publish("other")
    (tmp_path / "other" / "PINNED").write_bytes(b"\xff\xfe")
    models = registry(tmp_path)
    models.load()
    assert models.get("tiny").config.version == 1
    with pytest.raises(UnknownModel):
        models.get("other")


def test_a_folder_that_cannot_be_read_hides_no_other_model(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish()
    (tmp_path / "lost+found").mkdir()
    versions = artifact.versions

    def guarded(model: Path) -> list[int]:
        if model.name == "lost+found":  # as for anybody but root
            raise PermissionError(13, "Permission denied", str(model))
        return versions(model)

    monkeypatch.setattr(artifact, "versions", guarded)
    models = registry(tmp_path)
    models.load()
    assert models.get(None).config.name == "tiny"
    assert "lost+found: [Errno 13] Permission denied" in caplog.text


def test_a_dead_engine_is_not_ready(tmp_path: Path, publish: Publish) -> None:
    publish()
    models = registry(tmp_path)
    models.load()
    models.check_ready()
    models.get("tiny").engine.end("no room")
    with pytest.raises(NotReady, match="tiny: no room"):
        models.check_ready()


def test_engines_are_started_and_stopped(tmp_path: Path, publish: Publish) -> None:
    publish()
    models = registry(tmp_path)
    models.load()
    engine: Any = models.get("tiny").engine
    assert engine.started
    models.end("over")
    models.close()
    assert engine.stopped == "over"
    assert engine.joined


def test_what_ends_while_models_load_stays_ended_and_loads_no_more(tmp_path: Path, publish: Publish) -> None:
    publish("one"), publish("two")
    engines: list[FakeEngine] = []

    def open_engine(version: Version) -> FakeEngine:
        models.end("shutting down")
        engines.append(FakeEngine(version))
        return engines[-1]

    models = registry(tmp_path, open_engine)
    models.load()
    assert [engine.stopped for engine in engines] == ["shutting down"]
    with pytest.raises(NotReady, match="shutting down"):
        models.get("one")
    models.close()
    assert engines[0].joined


def test_an_engine_that_cannot_start_is_refused_with_its_reason(tmp_path: Path, publish: Publish) -> None:
    publish()

    class Unstartable(FakeEngine):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    models = registry(tmp_path, Unstartable)
    models.load()
    with pytest.raises(NotReady, match="can't start new thread"):
        models.check_ready()
