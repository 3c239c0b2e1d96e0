"""The application's life: what it starts it ends."""

from pathlib import Path

import pytest

from service.app import create_app
from service.generation.engine import Engine
from service.registry import Registry
from service.settings import Settings
from tests.support import Publish, serving


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_engines_are_waited_for_though_the_watcher_has_died(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()

    def dies(registry: Registry, _: float) -> None:
        registry.refresh()
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Registry, "watch", dies)
    waited_for, join = list[Engine](), Engine.join

    def record(engine: Engine) -> None:
        waited_for.append(engine)
        join(engine)

    monkeypatch.setattr(Engine, "join", record)
    with serving(Settings(models_dir=tmp_path)) as (app, _):
        engine = app.state.registry.get(None).engine
    assert waited_for == [engine]
    assert not app.state.stuck


def test_an_alias_of_an_absent_model_is_logged(tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture) -> None:
    publish("tiny")
    create_app(Settings(models_dir=tmp_path, aliases="gpt-4o=tiny gpt-5=absent"))
    (message,) = [message for message in caplog.messages if "alias" in message]
    assert message.startswith("--aliases gpt-5=absent has no effect yet")
