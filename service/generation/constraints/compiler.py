"""Compiles what a text must look like to an automaton over characters."""

import json
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, Literal

import numpy as np

from service.generation.constraints.pattern import UnsupportedConstraint
from service.generation.sampling import Automaton
from trainer.vocabulary import Vocabulary

SECONDS = 5.0  # that a compilation may take
START = 60.0  # seconds in which the process must have started
MAX_BYTES = 64_000_000  # of the cached automata

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


class Compiler:
    """Compiles constraints in a process of its own, because a small expression can need any amount of time and memory.

    The process starts with the first constraint and ends with this one. Threads may share a compiler.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._cache: OrderedDict[tuple[str, str], Constrained] = OrderedDict()

    def cached(self, constraint: Constraint, vocabulary: Vocabulary) -> Constrained | None:
        """The compiled constraint, if it was compiled before."""
        return self._cache.get(_key(constraint, vocabulary))

    def compile(self, constraint: Constraint, vocabulary: Vocabulary) -> Constrained:
        """Raises UnsupportedConstraint, with a message for whoever wrote the constraint. May take some seconds."""
        key = _key(constraint, vocabulary)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = self._compile(*key, vocabulary)
                while sum(found.automaton.next.nbytes for found in self._cache.values()) > MAX_BYTES and len(self._cache) > 1:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(key)
            return self._cache[key]

    def close(self) -> None:
        """Ends the process. The next constraint starts another."""
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _compile(self, constraint: str, characters: str, vocabulary: Vocabulary) -> Constrained:
        connection = self._connection or self._start()
        try:
            connection.send((constraint, characters))
            if not connection.poll(SECONDS):
                raise EOFError
            answer = connection.recv()
        except (EOFError, OSError):  # it took too long, or its memory was not enough
            self.close()
            raise UnsupportedConstraint("this takes too long or too much memory to compile; make it simpler") from None
        if isinstance(answer, Exception):
            raise answer
        more, table, distance = answer
        known = Vocabulary([*vocabulary.characters, *more])
        automaton = Automaton(np.frombuffer(table, np.int32).reshape(-1, len(known) + 1), np.frombuffer(distance, np.int32))
        return Constrained(automaton, known)

    def _start(self) -> Connection:
        self._connection, theirs = Pipe()
        command = [sys.executable, "-m", "service.generation.constraints.worker", str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL)  # noqa: S603 - our own code
        theirs.close()
        try:
            if self._connection.poll(START):
                self._connection.recv()
                return self._connection
        except EOFError:
            pass
        self.close()
        raise RuntimeError("the process that compiles constraints did not start")

    def __del__(self) -> None:
        self.close()


def _key(constraint: Constraint, vocabulary: Vocabulary) -> tuple[str, str]:
    return json.dumps([constraint.kind, constraint.value]), "".join(vocabulary.characters)
