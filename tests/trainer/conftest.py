"""What tests that train share."""

import pytest


def shorten_samples(patch: pytest.MonkeyPatch) -> None:
    """Runs draw a few characters where they would draw hundreds, which takes longer than to train a small network."""
    patch.setattr("trainer.loop.EPOCH_SAMPLE_CHARACTERS", 10)
    patch.setattr("trainer.publish.SAMPLE_CHARACTERS", 10)


@pytest.fixture
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_samples(monkeypatch)
