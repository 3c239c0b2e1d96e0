"""Starts a network from a published version's weights. The new vocabulary may have more characters. Does not know files."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.artifact import Tensors, Version

CHARACTER_AXIS = {"embedding": 0, "dense.kernel": 1, "dense.bias": 0}  # the tensors with an entry per character


def describe(version: Version) -> dict[str, Any]:
    """What a run records about the version that it started from."""
    config = version.config
    return {"name": config.name, "version": config.version, "weights_sha256": config.sha256.weights}


def starting_weights(version: Version, vocabulary: Sequence[str], initial: Tensors) -> dict[str, NDArray[np.float32]]:
    """The version's weights for `vocabulary`, which must contain all its characters.

    initial: the weights of a new network of the same architecture with `vocabulary`. New characters take theirs from it.
    """
    ids = {character: i for i, character in enumerate(vocabulary)}
    known = np.array([ids[character] for character in version.config.vocabulary])
    weights = {}
    for name, tensor in version.tensors.items():
        weights[name] = np.array(initial[name] if name in CHARACTER_AXIS else tensor)
        if name in CHARACTER_AXIS:
            np.moveaxis(weights[name], CHARACTER_AXIS[name], 0)[known] = np.moveaxis(tensor, CHARACTER_AXIS[name], 0)
    return weights
