"""A network that starts from a published version's weights, in a vocabulary that may have more characters.

Knows nothing of files or training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.artifact import Tensors, Version

CHARACTER_AXIS = {"embedding": 0, "dense.kernel": 1, "dense.bias": 0}  # of the tensors that have a place for each character


def describe(version: Version) -> dict[str, Any]:
    """What a run records of the version that it started from."""
    config = version.config
    return {"name": config.name, "version": config.version, "weights_sha256": config.sha256.weights}


def starting_weights(version: Version, vocabulary: Sequence[str], fresh: Tensors) -> dict[str, NDArray[np.float32]]:
    """The version's weights in `vocabulary`, which holds all its characters. New characters take their places from `fresh`.

    fresh: a new network's weights of the version's architecture with `vocabulary`, by published name.
    """
    ids = {character: i for i, character in enumerate(vocabulary)}
    places = np.array([ids[character] for character in version.config.vocabulary])
    weights = {}
    for name, tensor in version.tensors.items():
        weights[name] = np.array(fresh[name] if name in CHARACTER_AXIS else tensor)
        if name in CHARACTER_AXIS:
            np.moveaxis(weights[name], CHARACTER_AXIS[name], 0)[places] = np.moveaxis(tensor, CHARACTER_AXIS[name], 0)
    return weights
