"""What is measured, in processes of their own: each opens its system and keeps it.

In one process the thread pools of PyTorch and TensorFlow get in each other's way; apart, they are idle in their turns.
"""

import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from typing import Any, TypeVar


class Missing(Exception):
    """A system can't run here; the message says what it lacks."""


class Failed(Exception):
    """A system's process died, or the system raised, or it is not what it should be; the message says more."""


class Apart:
    """A system in a process of its own; it waits between calls."""

    def __init__(self, name: str, open_system: Callable[..., object], *arguments: object) -> None:
        """open_system: gives the system, there. Raises Missing or Failed."""
        self.name = name
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            self._result(_open, open_system, *arguments)
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: object) -> Any:
        """What the system's method gives. Raises Failed."""
        return self._result(_call, method, *arguments)

    def close(self) -> None:
        self._process.shutdown()

    def _result(self, function: Callable[..., Any], *arguments: object) -> Any:
        try:
            return self._process.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise Failed(f"{self.name} died") from None
        except (Missing, Failed):
            raise
        except Exception as error:
            raise Failed(f"{self.name}: {''.join(traceback.format_exception(error))}") from None  # that of its process too


Process = TypeVar("Process", bound=Apart)


@contextmanager
def opened(names: Sequence[str], open_one: Callable[[str], Process]) -> Iterator[tuple[list[Process], list[str]]]:
    """The processes of those systems that can run here, and why the others can't. Raises Failed."""
    processes: list[Process] = []
    missing: list[str] = []
    with ExitStack() as stack:
        for name in names:
            try:
                processes.append(stack.enter_context(closing(open_one(name))))
            except Missing as error:
                missing.append(f"{name} is left out: {error}")
        yield processes, missing


_systems: list[Any] = []  # the one of this process


def _open(open_system: Callable[..., object], *arguments: object) -> None:
    _systems.append(open_system(*arguments))


def _call(method: str, *arguments: object) -> Any:
    return getattr(_systems[0], method)(*arguments)
