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
        self._lookups: list[bool] = []
        self._states: OrderedDict[bytes, State] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, prompt: NDArray[np.int32]) -> State | None:
        """The state that has all of the prompt but its last character behind it, if it is here."""
        key = prompt.tobytes()
        self._lookups.append(key in self._states)
        if key in self._states:
            self._states.move_to_end(key)
        return self._states.get(key)

    def drain_lookups(self) -> list[bool]:
        """For each `get` since the last call, whether the state was found."""
        lookups, self._lookups = self._lookups, []
        return lookups

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
