"""Caches the network's state after a prompt, so that an equal prompt is not read again."""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from service.generation.backend import State


class PromptCache:
    """States by prompt, least recently used evicted first. Prompts and states together take at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0  # bytes
        self._lookups: list[bool] = []
        self._states: OrderedDict[bytes, State] = OrderedDict()

    def get(self, prompt: NDArray[np.int32]) -> State | None:
        """The state after all characters of the prompt but the last, or None if it is not cached."""
        key = prompt.tobytes()
        self._lookups.append(key in self._states)
        if key in self._states:
            self._states.move_to_end(key)
        return self._states.get(key)

    def drain_lookups(self) -> list[bool]:
        """For each `get` since the last call of this method, whether the state was found."""
        lookups, self._lookups = self._lookups, []
        return lookups

    def put(self, prompt: NDArray[np.int32], state: State) -> None:
        """Stores a state and evicts the least recently used entries. A state larger than the whole cache is not stored."""
        key = prompt.tobytes()
        if key in self._states or len(key) + state.nbytes > self.limit:
            return
        self._states[key] = state
        self.size += len(key) + state.nbytes
        while self.size > self.limit:
            old, evicted = self._states.popitem(last=False)
            self.size -= len(old) + evicted.nbytes
