"""The states that prompts left behind, so that a prompt that comes again need not be read again."""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from service.generation.backend import State


class PromptCache:
    """The most recently used prompts' states, as many as `limit` bytes hold, the prompts themselves counted."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0  # bytes
        self.queries = self.hits = 0
        self._states: OrderedDict[bytes, State] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, prompt: NDArray[np.int32]) -> State | None:
        """The state that has all of the prompt but its last character behind it, if it is here."""
        key = prompt.tobytes()
        self.queries += 1
        if key in self._states:
            self.hits += 1
            self._states.move_to_end(key)
        return self._states.get(key)

    def put(self, prompt: NDArray[np.int32], state: State) -> None:
        """Keeps a state, unless it alone is more than the limit; who has not been used for longest makes room."""
        key = prompt.tobytes()
        if key in self._states or len(key) + state.nbytes > self.limit:
            return
        self._states[key] = state
        self.size += len(key) + state.nbytes
        while self.size > self.limit:
            old, dropped = self._states.popitem(last=False)
            self.size -= len(old) + dropped.nbytes
