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
        self._num_lookups = self._num_hits = 0
        self._states: OrderedDict[bytes, State] = OrderedDict()

    def get(self, prompt: NDArray[np.int32]) -> State | None:
        """The state after all characters of the prompt but the last, or None if it is not cached."""
        key = prompt.tobytes()
        self._num_lookups += 1
        if key in self._states:
            self._num_hits += 1
            self._states.move_to_end(key)
        return self._states.get(key)

    def drain_lookups(self) -> tuple[int, int]:
        """Calls of `get` since the last call of this method: (all of them, those that found a state)."""
        found = self._num_lookups, self._num_hits
        self._num_lookups = self._num_hits = 0
        return found

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
