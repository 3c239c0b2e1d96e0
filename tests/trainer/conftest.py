"""What tests that train share."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


def shorten_samples(patch: pytest.MonkeyPatch) -> None:
    """Runs draw a few characters where they would draw hundreds, which takes longer than to train a small network."""
    patch.setattr("trainer.loop.EPOCH_SAMPLE_CHARACTERS", 10)
    patch.setattr("trainer.publish.SAMPLE_CHARACTERS", 10)


def tensors(model: Any) -> dict[str, NDArray[np.float32]]:
    """A Keras model's weights, by published name."""
    from trainer import network

    return {name: variable.numpy() for name, variable in network.variables(model).items()}


@pytest.fixture
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_samples(monkeypatch)
