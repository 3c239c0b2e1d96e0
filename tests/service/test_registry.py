import logging
import os
import sys
import threading
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from service import registry as registry_module
from service.chat import ChatTemplate
from service.generation.backends import Unsupported
from service.registry import NotReady, Readiness, Registry, UnknownModel
from tests.support import Publish, wait_until
from trainer import artifact
from trainer.artifact import ArtifactError, Version


class FakeEngine:
    backend = SimpleNamespace(name="fake", precision="none", arithmetic="fake")

    def __init__(self, version: Version) -> None:
        self.version, self.started, self.joined, self.stopped, self.idle = version, False, False, "", False
        self.failed, self.hung = False, ""

    def start(self) -> None:
        self.started = True

    def end(self, why: str) -> None:
        self.stopped = why

    def fail(self, why: str) -> None:
        self.stopped, self.failed = why, True

    def end_if_idle(self, why: str) -> None:
        if self.idle:
            self.end(why)

    def join(self) -> None:
        self.joined = True


def registry(models: Path, open_engine: Any = FakeEngine) -> Registry:
    return Registry(models, "tiny", open_engine)


def test_until_it_has_loaded_nothing_is_served(tmp_path: Path, publish: Publish) -> None:
    publish()
    models = registry(tmp_path)
    with pytest.raises(NotReady, match="being loaded"):
        models.get("tiny")
    models.refresh()
    assert models.get("tiny").config.version == 1


def test_a_model_serves_while_another_is_still_being_loaded(tmp_path: Path, publish: Publish) -> None:
    publish("a"), publish("tiny"), publish("z")
    loading = "models are being loaded"
    seen: list[list[str]] = []

    def asked(name: str | None) -> str:
        try:
            return models.get(name).config.name
        except NotReady as error:
            return str(error)

    def open_engine(version: Version) -> FakeEngine:
        seen.append([asked("a"), asked("tiny"), asked("absent"), asked(None)])
        with pytest.raises(NotReady, match=loading):
            models.check_ready()
        return FakeEngine(version)

    models = registry(tmp_path, open_engine)
    models.refresh()
    assert seen == [
        [loading, loading, loading, loading],
        ["a", loading, loading, loading],  # the only one so far, but not the default
        ["a", "tiny", loading, "tiny"],
    ]
    models.check_ready()
    with pytest.raises(UnknownModel):
        models.get("absent")


def test_what_is_loaded_is_told_while_another_is_still_being_loaded(tmp_path: Path, publish: Publish) -> None:
    publish("a"), publish("b")
    seen: list[list[tuple[str, bool]]] = []

    def open_engine(version: Version) -> FakeEngine:
        if version.config.name == "a":
            with pytest.raises(NotReady, match="being loaded"):
                _ = models.models
        else:
            seen.append([(model.config.name, models.is_default(model)) for model in models.models])
        return FakeEngine(version)

    models = registry(tmp_path, open_engine)
    models.refresh()
    assert seen == [[("a", False)]]
    models.end("over")
    with pytest.raises(NotReady, match="over"):
        _ = models.models


def test_the_newest_version_of_every_model_is_served(tmp_path: Path, publish: Publish) -> None:
    for _ in range(11):
        publish("tiny")
    publish("other")
    models = registry(tmp_path)
    models.refresh()
    assert models.get(None).config.version == 11
    assert models.get("other").config.version == 1
    with pytest.raises(UnknownModel, match="there is no model 'absent'; the models are: other, tiny"):
        models.get("absent")


def test_the_only_model_needs_no_name(tmp_path: Path, publish: Publish) -> None:
    publish("dao")
    models = registry(tmp_path)
    models.refresh()
    assert models.get(None).config.name == "dao"


def test_a_broken_version_is_refused_with_its_reason_and_the_one_before_it_is_served(
    tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish()
    (publish().path / artifact.WEIGHTS).write_bytes(b"broken")
    models = registry(tmp_path)
    models.refresh()
    assert models.get("tiny").config.version == 1
    assert "refused" in caplog.text
    assert "tiny/2/weights.safetensors: SHA-256" in caplog.text


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take no such name")
def test_a_reason_can_be_sent_though_a_folders_name_is_not_utf_8(tmp_path: Path, publish: Publish) -> None:
    publish(), publish("other")
    (tmp_path / "other").rename(tmp_path / os.fsdecode(b"bad\xff"))
    models = registry(tmp_path)
    for _ in range(2):
        models.refresh()
        assert models.get("tiny").config.version == models.refusals.count == 1
        assert [reason.encode() for reason in models.refusals.reasons] == [
            f"{tmp_path}/bad\\udcff/1: was published as other/1: copy it to a folder of that name".encode()
        ]


def test_a_version_under_another_name_or_number_is_refused(
    tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish()
    publish().path.rename(tmp_path / "tiny" / "7")
    models = registry(tmp_path)
    models.refresh()
    assert models.get("tiny").config.version == 1
    assert "tiny/7: was published as tiny/2" in caplog.text


def test_a_version_that_its_decoder_cannot_load_is_refused_too(tmp_path: Path, publish: Publish) -> None:
    publish(), publish()

    def open_engine(version: Version) -> FakeEngine:
        if version.config.version == 2:
            raise MemoryError("no room")
        return FakeEngine(version)

    models = registry(tmp_path, open_engine)
    models.refresh()
    assert models.get("tiny").config.version == 1


def test_a_pin_holds_the_version(tmp_path: Path, publish: Publish) -> None:
    for _ in range(3):
        publish()
    (tmp_path / "tiny" / "PINNED").write_text("2\n")
    models = registry(tmp_path)
    models.refresh()
    assert models.get("tiny").config.version == 2


def test_a_pin_on_a_version_that_is_not_there_is_not_ignored(tmp_path: Path, publish: Publish) -> None:
    publish()
    (tmp_path / "tiny" / "PINNED").write_text("5")
    models = registry(tmp_path)
    models.refresh()
    with pytest.raises(NotReady, match="tiny/5"):
        models.get("tiny")


def test_an_empty_or_missing_folder_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    for folder, reason in ((tmp_path, "holds no published version"), (tmp_path / "absent", "No such file")):
        models = registry(folder)
        models.refresh()
        with pytest.raises(NotReady, match=reason):
            models.check_ready()


def test_a_pin_that_cannot_be_read_refuses_its_model_and_no_other(tmp_path: Path, publish: Publish) -> None:
    publish("tiny"), publish("other")
    (tmp_path / "other" / "PINNED").write_bytes(b"\xff\xfe")
    models = registry(tmp_path)
    models.refresh()
    assert models.get("tiny").config.version == 1
    with pytest.raises(UnknownModel):
        models.get("other")


@pytest.mark.parametrize("pinned", ["", "1\0", "/", "..", "../other/1", "01", "-1", "one", "1 2"])
def test_a_pin_that_is_no_version_number_refuses_its_model_and_no_other(tmp_path: Path, publish: Publish, pinned: str) -> None:
    publish("tiny"), publish("other")
    (tmp_path / "other" / "PINNED").write_text(pinned)
    models = registry(tmp_path)
    models.refresh()
    assert models.get(None).config.name == "tiny"
    assert models.refusals.reasons == [f"{tmp_path}/other: PINNED holds {pinned!r}, expected a version number"]


@pytest.mark.parametrize("name", ["PINNED", "chat.json"])
def test_a_link_to_nothing_is_refused_and_what_serves_goes_on(tmp_path: Path, publish: Publish, name: str) -> None:
    publish(), publish()
    real, link = tmp_path / ".real", tmp_path / "tiny" / name
    real.write_text("1" if name == "PINNED" else '{"stop": ["."]}')
    link.symlink_to(real)
    models = registry(tmp_path)
    models.refresh()
    before = models.get("tiny")
    real.unlink()
    models.refresh()
    assert models.get("tiny") == before
    assert models.refusals.reasons == [f"{tmp_path}/tiny: {name} is a dangling link"]
    link.unlink()
    models.refresh()
    assert (models.get("tiny").config.version, models.get("tiny").chat, models.refusals.reasons) == (2, ChatTemplate(), [])


def test_a_look_that_fails_is_told_of_and_not_the_last(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish()
    broken, versions = threading.Event(), artifact.versions
    broken.set()

    def sometimes(model: Path) -> list[int]:
        if broken.is_set():
            raise RuntimeError("out of luck")
        return versions(model)

    monkeypatch.setattr(artifact, "versions", sometimes)
    models = registry(tmp_path)
    watching = threading.Thread(target=models.watch, args=[0.01])
    watching.start()
    try:
        assert models.wait_until_loaded(60)
        with pytest.raises(NotReady, match=r"checking for versions failed: RuntimeError.*out of luck"):
            models.check_ready()
        broken.clear()
        wait_until(lambda: models.readiness is Readiness.READY)
        broken.set()
        caplog.clear()
        wait_until(lambda: "loaded models continue to be served" in caplog.text)
        models.check_ready()
    finally:
        models.end("over")
        watching.join()


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
    models.refresh()
    assert models.get(None).config.name == "tiny"
    assert "lost+found: [Errno 13] Permission denied" in caplog.text


def test_a_dead_engine_is_neither_ready_nor_alive(tmp_path: Path, publish: Publish) -> None:
    publish()
    models = registry(tmp_path)
    models.refresh()
    models.check_ready()
    engine: Any = models.get("tiny").engine
    engine.fail("no room")
    for check in (models.check_ready, models.check_alive):
        with pytest.raises(NotReady, match="tiny: no room"):
            check()


def test_what_drains_is_not_ready_but_lives_and_serves(tmp_path: Path, publish: Publish) -> None:
    publish()
    models = registry(tmp_path)
    models.refresh()
    models.drain("stopping")
    with pytest.raises(NotReady, match="stopping"):
        models.check_ready()
    models.check_alive()
    assert models.get("tiny").config.version == 1


def test_engines_are_started_and_stopped(tmp_path: Path, publish: Publish) -> None:
    publish()
    models = registry(tmp_path)
    models.refresh()
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
    models.refresh()
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
    models.refresh()
    with pytest.raises(NotReady, match="can't start new thread"):
        models.check_ready()


def test_a_new_version_takes_over_and_the_old_one_is_freed_when_it_has_nothing_left_to_do(tmp_path: Path, publish: Publish) -> None:
    publish()
    models = registry(tmp_path)
    models.refresh()
    old: Any = models.get("tiny").engine
    publish()
    models.refresh()
    assert models.get("tiny").config.version == 2
    models.refresh()
    assert not old.stopped
    old.idle = True
    models.refresh()
    assert "tiny/1 was replaced" in old.stopped
    models.refresh()
    assert old.joined
    models.end("over")
    assert "replaced" in old.stopped


def test_at_no_moment_of_a_swap_is_a_model_missing(tmp_path: Path, publish: Publish) -> None:
    publish()
    models = registry(tmp_path)
    models.refresh()
    publish()
    seen: list[int] = []
    before = sys.gettrace()

    def look(frame: FrameType, _event: str, _argument: object) -> Any:
        """Before every line of the registry's, as a request in another thread might."""
        if frame.f_code.co_filename == registry_module.__file__:
            seen.append(models.get(None).config.version + models.get("tiny").config.version)
        return look

    sys.settrace(look)
    try:
        models.refresh()
    finally:
        sys.settrace(before)
    assert {2, 4} == set(seen)


def test_an_engine_that_died_is_replaced(tmp_path: Path, publish: Publish) -> None:
    publish()
    models = registry(tmp_path)
    models.refresh()
    engine: Any = models.get("tiny").engine
    engine.fail("the device is gone")
    models.refresh()
    models.check_ready()
    assert not models.get("tiny").engine.stopped


def test_an_engine_that_died_is_tried_again_though_it_could_not_be_loaded_at_first(tmp_path: Path, publish: Publish) -> None:
    publish()
    loads: list[bool] = [True, False, True]

    def open_engine(version: Version) -> FakeEngine:
        if not loads.pop(0):
            raise MemoryError("no room just now")
        return FakeEngine(version)

    models = registry(tmp_path, open_engine)
    models.refresh()
    engine: Any = models.get("tiny").engine
    engine.fail("the device is gone")
    models.refresh()
    with pytest.raises(NotReady, match="the device is gone"):
        models.check_alive()
    models.refresh()
    models.check_ready()
    assert not models.refusals.reasons


def test_a_pin_rolls_back_and_without_it_the_newest_serves_again(tmp_path: Path, publish: Publish) -> None:
    publish(), publish()
    models, pin = registry(tmp_path), tmp_path / "tiny" / "PINNED"
    for content, version in ((None, 2), ("1", 1), ("2", 2), ("1", 1), (None, 2)):
        pin.unlink(missing_ok=True)
        if content:
            pin.write_text(content)
        models.refresh()
        assert models.get("tiny").config.version == version
    pin.write_text("7")
    models.refresh()
    assert models.get("tiny").config.version == 2, "a pin on what is not there ends nothing"
    assert any("tiny/7" in reason for reason in models.refusals.reasons)


def test_a_half_copied_version_is_refused_once_and_taken_when_the_rest_has_come(
    tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish()
    whole = publish().path
    weights = (whole / artifact.WEIGHTS).read_bytes()
    (whole / artifact.WEIGHTS).write_bytes(weights[:1000])
    models = registry(tmp_path)
    for _ in range(3):
        models.refresh()
    assert models.get("tiny").config.version == 1
    assert caplog.text.count("refused") == 1
    assert any("tiny/2" in reason for reason in models.refusals.reasons)
    (whole / artifact.WEIGHTS).write_bytes(weights)
    models.refresh()
    assert models.get("tiny").config.version == 2
    assert models.refusals.reasons == []


def test_a_pin_on_a_version_that_is_not_there_is_refused_once_and_served_when_it_comes(
    tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish()
    (tmp_path / "tiny" / "PINNED").write_text("2")
    models = registry(tmp_path)
    for _ in range(3):
        models.refresh()
    assert caplog.text.count("refused") == models.refusals.count == len(models.refusals.reasons) == 1
    publish()
    models.refresh()
    assert models.get("tiny").config.version == 2
    assert models.refusals.reasons == []


def test_a_broken_version_is_told_of_only_while_it_would_be_served(tmp_path: Path, publish: Publish) -> None:
    publish()
    (publish().path / artifact.WEIGHTS).write_bytes(b"broken")
    models = registry(tmp_path)
    for _ in range(2):
        models.refresh()
        assert ["tiny/2" in reason for reason in models.refusals.reasons] == [True]
    publish()
    models.refresh()
    assert (models.get("tiny").config.version, models.refusals.reasons) == (3, [])


def test_a_template_that_is_none_is_refused_alone_and_until_it_is_mended(
    tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish()
    template = tmp_path / "tiny" / "chat.json"
    template.write_text("{")
    models = registry(tmp_path)
    for _ in range(2):
        models.refresh()
        assert models.get("tiny").chat == ChatTemplate()
        assert ["tiny: chat.json: " in reason for reason in models.refusals.reasons] == [True]
    assert caplog.text.count("refused") == models.refusals.count == 1
    template.unlink()
    models.refresh()
    assert (models.get("tiny").config.version, models.refusals.reasons) == (1, [])


def test_a_template_that_is_none_keeps_the_one_before_it_and_holds_up_neither_versions_nor_pins(
    tmp_path: Path, publish: Publish
) -> None:
    publish()
    template, pin = tmp_path / "tiny" / "chat.json", tmp_path / "tiny" / "PINNED"
    template.write_text('{"stop": ["."]}')
    models = registry(tmp_path)
    models.refresh()
    template.write_text("{")
    publish()
    for version in (2, 1):
        if version == 1:
            pin.write_text("1")
        models.refresh()
        assert models.get("tiny").config.version == version
        assert models.get("tiny").chat.stop == ["."]
        assert ["chat.json" in reason for reason in models.refusals.reasons] == [True]


GPU_IS_FULL = Unsupported("CUDA_ERROR_OUT_OF_MEMORY")
GPU_IS_FULL.__cause__ = MemoryError()


@pytest.mark.parametrize(
    "failure", [MemoryError("no room"), OSError(24, "Too many open files"), RuntimeError("the GPU is busy"), GPU_IS_FULL]
)
def test_a_version_that_something_else_kept_from_loading_is_tried_again_and_told_of_once(
    tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    publish(), publish()
    failing = iter(range(3))

    def open_engine(version: Version) -> FakeEngine:
        if version.config.version == 2 and next(failing, None) is not None:
            raise failure
        return FakeEngine(version)

    models = registry(tmp_path, open_engine)
    for _ in range(3):
        models.refresh()
        assert models.get("tiny").config.version == 1
    assert caplog.text.count("WARNING") == models.refusals.count == 1
    models.refresh()
    assert (models.get("tiny").config.version, models.refusals.reasons) == (2, [])


def test_a_file_that_cannot_be_read_just_now_is_read_again(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    read_bytes, failing = Path.read_bytes, iter(range(1))

    def flaky(path: Path) -> bytes:
        if path.name == artifact.WEIGHTS and next(failing, None) is not None:
            raise OSError(5, "Input/output error")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", flaky)
    models = registry(tmp_path)
    models.refresh()
    with pytest.raises(NotReady, match="Input/output error"):
        models.check_ready()
    models.refresh()
    models.check_ready()


@pytest.mark.parametrize("own_fault", [Unsupported("no bf16 here"), ArtifactError("damaged")])
def test_a_version_that_can_never_be_loaded_is_not_tried_again_until_its_files_change(
    tmp_path: Path, publish: Publish, own_fault: Exception
) -> None:
    path, opened = publish().path, 0

    def open_engine(_: Version) -> FakeEngine:
        nonlocal opened
        opened += 1
        raise own_fault

    models = registry(tmp_path, open_engine)
    models.refresh()
    models.refresh()
    assert opened == 1
    (path / "changed").touch()
    models.refresh()
    assert opened == 2


def test_a_version_that_is_still_copied_while_it_is_read_is_read_again(tmp_path: Path, publish: Publish) -> None:
    path = publish().path

    def open_engine(version: Version) -> FakeEngine:
        if not (path / "last").exists():
            (path / "last").touch()  # comes too late for this reader
            raise ArtifactError("not all there")
        return FakeEngine(version)

    models = registry(tmp_path, open_engine)
    models.refresh()
    models.refresh()
    models.check_ready()


def test_models_come_and_go(tmp_path: Path, publish: Publish) -> None:
    models = registry(tmp_path)
    models.refresh()
    with pytest.raises(NotReady):
        models.check_ready()
    publish("one")
    models.refresh()
    models.check_ready()
    publish("two")
    models.refresh()
    one: Any = models.get("one").engine
    (tmp_path / "one").rename(tmp_path / ".one")
    models.refresh()
    with pytest.raises(UnknownModel, match="the models are: two"):
        models.get("one")
    one.idle = True
    models.refresh()
    assert one.stopped


def test_a_volume_that_is_lost_ends_nothing(tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture) -> None:
    publish("one"), publish("two")
    models = registry(tmp_path)
    models.refresh()
    hidden = tmp_path.with_name("elsewhere")
    tmp_path.rename(hidden)
    absent, empty = "No such file or directory", "holds no published version"
    mount_point, new_volume = tmp_path, tmp_path / "lost+found"
    for found, reason in ((None, absent), (mount_point, empty), (new_volume, empty)):
        if found:
            found.mkdir()
        for _ in range(2):
            models.refresh()
            models.check_ready()
            assert [models.get(name).config.version for name in ("one", "two")] == [1, 1]
            assert models.refusals.reasons == [f"{tmp_path}: {reason}; loaded models continue to be served"]
    assert caplog.text.count("continue to be served") == models.refusals.count == 2, "for each reason once"
    new_volume.rmdir()
    mount_point.rmdir()
    hidden.rename(tmp_path)
    publish("one")
    models.refresh()
    assert (models.get("one").config.version, models.refusals.reasons) == (2, [])


def test_a_chats_template_may_change_while_its_model_serves(tmp_path: Path, publish: Publish) -> None:
    publish()
    models = registry(tmp_path)
    models.refresh()
    engine = models.get("tiny").engine
    (tmp_path / "tiny" / "chat.json").write_text('{"stop": ["."]}')
    models.refresh()
    assert models.get("tiny").chat.stop == ["."]
    assert models.get("tiny").engine is engine


def test_an_engine_that_hangs_is_not_alive_and_not_waited_for_when_it_is_replaced(tmp_path: Path, publish: Publish) -> None:
    publish()
    models = registry(tmp_path)
    models.refresh()
    engine: Any = models.get("tiny").engine
    engine.hung = "a call has not returned"
    for check in (models.check_alive, models.check_ready):
        with pytest.raises(NotReady, match="tiny: a call has not returned"):
            check()
    publish()
    models.refresh()
    models.check_alive()
    engine.end("replaced")
    models.refresh()
    assert not engine.joined
    engine.hung = ""
    models.refresh()
    assert engine.joined


def test_a_server_that_stops_before_anything_is_loaded_keeps_nobody_waiting(tmp_path: Path) -> None:
    models = registry(tmp_path)
    models.drain("stopping")
    assert models.wait_until_loaded(60)
    models.refresh()
    for asked in (models.check_ready, lambda: models.get("tiny"), lambda: models.models):
        with pytest.raises(NotReady, match="stopping"):
            asked()
