"""Compiles what a text must look like to an automaton over characters."""

import hashlib
import json
import subprocess
import sys
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Literal

import numpy as np

from service.generation.constraints.pattern import UnsupportedConstraint
from service.generation.sampling import Automaton
from service.generation.scheduler import QueueFull
from trainer.vocabulary import Vocabulary

SECONDS = 5.0  # that a compilation may take
START = 60.0  # seconds in which the process must have started
MAX_BYTES = 64_000_000  # of the cached automata
FIRST = 1.0  # seconds that a compilation takes as long as none has been measured
MAX_WAIT = 30.0  # seconds that a constraint may have to wait for those before it
RETRY = 60.0  # seconds until a refused constraint is tried again: it may have taken too long because the machine was busy
MAX_CACHED = 1_000  # automata and refusals

# Like `python -m` in the folder that holds the package, whatever the current folder is and holds.
WORKER = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r}); "
    "from service.generation.constraints.worker import main; main(int(sys.argv[1]))"
)

Kind = Literal["regex", "choices", "json_schema", "json_object", "tools"]


@dataclass(frozen=True)
class Constraint:
    """What a text must be: a match of a regular expression, one of several choices, JSON under a schema, or calls of tools."""

    kind: Kind
    value: Any  # the expression; the choices; the schema; None; {"tools": [[name, schema of the arguments]], "most": calls}


@dataclass(frozen=True, eq=False)
class Constrained:
    """A compiled constraint."""

    automaton: Automaton
    vocabulary: Vocabulary  # the model's, then the characters that only the automaton knows

    @property
    def shortest(self) -> int:
        """Characters of the shortest text."""
        return int(self.automaton.distance[0])


class Refused(UnsupportedConstraint):
    """A constraint that was not compiled. `at`: when."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.at = monotonic()


class Compiler:
    """Compiles constraints in a process of its own, because a small expression can need any amount of time and memory.

    The process starts with the first constraint and ends with this one. Threads may share a compiler.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._thread = ThreadPoolExecutor(1, "constraints")
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._cache: OrderedDict[bytes, Constrained | Refused] = OrderedDict()
        self._waiting: dict[Future[Constrained], bytes] = {}  # their keys
        self._seconds: float | None = None  # that a compilation takes: a moving average

    def cached(self, constraint: Constraint, vocabulary: Vocabulary) -> Constrained | None:
        """The compiled constraint, if it was compiled before. Raises UnsupportedConstraint if it took too long then."""
        key = _key(_text(constraint), vocabulary)
        found = _or_raise(self._cache.get(key))
        if found is not None:
            with suppress(KeyError):  # another thread has just removed it
                self._cache.move_to_end(key)
        return found

    def submit(self, constraint: Constraint, vocabulary: Vocabulary) -> Future[Constrained]:
        """As `compile`, in a thread that does nothing else. A constraint that still waits can be cancelled. Raises QueueFull."""
        key = _key(_text(constraint), vocabulary)
        waiting = {*self._waiting.copy().values()}  # equal constraints are compiled once
        seconds = len(waiting) * (FIRST if self._seconds is None else self._seconds)
        if seconds > MAX_WAIT and key not in waiting:
            raise QueueFull(seconds)
        future = self._thread.submit(self.compile, constraint, vocabulary)
        self._waiting[future] = key
        future.add_done_callback(self._waiting.pop)
        return future

    def compile(self, constraint: Constraint, vocabulary: Vocabulary) -> Constrained:
        """Raises UnsupportedConstraint, with a message that tells the client what to change. May take some seconds."""
        text = _text(constraint)
        key = _key(text, vocabulary)
        with self._lock:
            found = _or_raise(self._cache.get(key))
            if found is None:
                connection = self._running()
                began = monotonic()
                try:
                    found = self._compile(connection, text, vocabulary)
                except UnsupportedConstraint as error:
                    self._remember(key, Refused(str(error)))  # not the one that is raised: its traceback holds the constraint
                    raise
                finally:
                    took = monotonic() - began
                    self._seconds = took if self._seconds is None else self._seconds + (took - self._seconds) / 4
            self._remember(key, found)
            return found

    def close(self) -> None:
        """Ends the process, and cancels the constraints that wait."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._end_process()

    def _remember(self, key: bytes, found: "Constrained | Refused") -> None:
        self._cache[key] = found
        self._cache.move_to_end(key)
        while len(self._cache) > MAX_CACHED or (sum(map(_size, self._cache.values())) > MAX_BYTES and len(self._cache) > 1):
            self._cache.popitem(last=False)

    def _end_process(self) -> None:
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _running(self) -> Connection:
        """The connection to the process, which is started if there is none."""
        if self._process is not None and self._process.poll() is not None:
            self._end_process()  # it was killed while it was idle
        return self._connection or self._start()

    def _compile(self, connection: Connection, constraint: str, vocabulary: Vocabulary) -> Constrained:
        try:
            connection.send((constraint, "".join(vocabulary.characters)))
            if not connection.poll(SECONDS):
                raise EOFError
            answer = connection.recv()
        except (EOFError, OSError):  # it took too long, or its memory was not enough
            self._end_process()
            raise Refused("this takes too long or too much memory to compile; make it simpler") from None
        if isinstance(answer, Exception):
            raise answer
        more, table, distance = answer
        known = Vocabulary([*vocabulary.characters, *more])
        automaton = Automaton(np.frombuffer(table, np.int32).reshape(-1, len(known) + 1), np.frombuffer(distance, np.int32))
        return Constrained(automaton, known)

    def _start(self) -> Connection:
        self._connection, theirs = Pipe()
        command = [sys.executable, "-P", "-c", WORKER, str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL)  # noqa: S603 - our own code
        theirs.close()
        try:
            if self._connection.poll(START):
                self._connection.recv()
                return self._connection
        except EOFError:
            pass
        self._end_process()
        raise RuntimeError("the process that compiles constraints did not start")

    def __del__(self) -> None:
        self.close()


def _text(constraint: Constraint) -> str:
    return json.dumps([constraint.kind, constraint.value])


def _key(text: str, vocabulary: Vocabulary) -> bytes:
    """A digest, because a schema can have megabytes and a small automaton."""
    return hashlib.sha256(json.dumps([text, vocabulary.characters]).encode()).digest()


def _size(found: Constrained | Refused) -> int:
    """Bytes. A vocabulary with an emoji takes half a megabyte."""
    return found.automaton.next.nbytes + found.vocabulary.nbytes if isinstance(found, Constrained) else 0


def _or_raise(found: Constrained | Refused | None) -> Constrained | None:
    if not isinstance(found, Refused):
        return found
    if monotonic() < found.at + RETRY:
        raise UnsupportedConstraint(str(found))
    return None
