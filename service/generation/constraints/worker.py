"""The process that compiles constraints. `service.generation.constraints.compiler` starts it.

It imports little, so that it starts quickly, and limits its own memory.
"""

import contextlib
import json
import resource
import signal
import traceback
from array import array
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from outlines_core import Index
from outlines_core import Vocabulary as Tokens

from service.generation.constraints import charset
from service.generation.constraints.charset import END, START, Ranges
from service.generation.constraints.json_schema import free_json_object, json_pattern
from service.generation.constraints.pattern import UnsupportedConstraint, choices_pattern, regex_pattern
from service.generation.constraints.tree import (
    NOTHING,
    Alternation,
    Characters,
    Concatenation,
    Node,
    Repetition,
    alternation,
    concatenation,
    literal,
    rebuilt,
    repetition,
)

MEMORY = 2**30  # bytes
SECONDS = 10  # after which the process ends itself; a server that still runs has ended it before
MAX_NAMED = 1_000  # characters of a set; larger sets are cut to the vocabulary
IMPOSSIBLE = "no text matches it: it requires characters that it does not name and that the model does not know"
UNREACHABLE = 2**30  # a distance
MAX_STATES, MAX_ENTRIES = 20_000, 4_000_000  # of a table of states by characters

Compiled = tuple[list[str], bytes, bytes]


def serve(connection: Connection) -> None:
    """Says that it is ready. Then answers each (constraint, vocabulary) with what `automaton` returns or raises."""
    connection.send("ready")
    while True:
        constraint, vocabulary = connection.recv()
        signal.alarm(SECONDS)  # also ends a compilation that nobody waits for because the server was killed
        try:
            kind, value = json.loads(constraint)
            connection.send(automaton(pattern_of(kind, value, vocabulary), vocabulary))
        except UnsupportedConstraint as error:
            connection.send(UnsupportedConstraint(str(error)))
        except RecursionError:
            connection.send(UnsupportedConstraint("it is nested too deeply"))
        except MemoryError:
            return  # the server says that it takes too much, and starts another process
        except Exception:
            connection.send(RuntimeError(traceback.format_exc()))
        signal.alarm(0)


def pattern_of(kind: str, value: Any, vocabulary: str) -> Node:
    """The pattern of a constraint. Raises UnsupportedConstraint."""
    match kind:
        case "regex":
            return regex_pattern(value)
        case "choices":
            return choices_pattern(value)
        case "json_schema":
            return json_pattern(value, vocabulary)
        case "json_object":
            return free_json_object(vocabulary)
        case _:
            return calls_pattern(value["tools"], value["most"], vocabulary)


def calls_pattern(tools: Sequence[tuple[str, Any]], most: int, vocabulary: str) -> Node:
    """One to `most` lines, each the name of a tool, a space and its arguments."""
    call = alternation(
        concatenation([choices_pattern([name]), literal(" "), json_pattern(schema, vocabulary)]) for name, schema in tools
    )
    return concatenation([call, repetition(concatenation([literal("\n"), call]), 0, most - 1)])


def known_only(node: Node, known: Ranges) -> Node:
    """The pattern with only the known characters in sets such as [^a] and `.`, which name none."""
    if isinstance(node, Characters):
        return Characters(charset.intersection(node.ranges, known)) if charset.size(node.ranges) > MAX_NAMED else node
    return rebuilt(node, lambda part: known_only(part, known))


def characters_of(node: Node) -> set[str]:
    """All characters of a pattern that names all of its characters."""
    match node:
        case Characters(ranges):
            return {chr(code) for first, last in ranges for code in range(first, last + 1)}
        case Concatenation(nodes) | Alternation(nodes):
            return set().union(*map(characters_of, nodes))
        case Repetition(part):
            return characters_of(part)


def automaton(pattern: Node, vocabulary: str) -> Compiled:
    """Compiles a pattern over the vocabulary and the characters that it names. Raises UnsupportedConstraint.

    Returns (the characters beyond the vocabulary, the table [states, characters + 1] and the distances [states] as int32). The
    table's last column is the end of the text, which a state allows if the text may end there. State 0 is the start.

    The expression for Rust stands between two characters of its own. Without END, `a|ab` would never give "ab": Rust prefers the
    earlier option and stops at its match. Without START, outlines-core takes exponential time and memory for patterns such as
    `19{9}[0-8]|19{8}[0-8][0-9]|...`: it also builds the automaton that searches a text, where a match may begin anywhere.
    """
    pattern = known_only(pattern, charset.of(vocabulary))
    if pattern == NOTHING:
        raise UnsupportedConstraint(IMPOSSIBLE)
    more = sorted(characters_of(pattern) - {*vocabulary})
    characters = [*vocabulary, *more, END, START]
    end = len(characters) - 2
    try:
        tokens = Tokens(end + 2, {character: [i] for i, character in enumerate(characters)})
        index = Index(f"{START}(?:{expression(pattern)}){END}", tokens)
    except ValueError as error:
        raise UnsupportedConstraint(f"this regular expression is not supported: {error}") from None
    transitions, final = index.get_transitions(), set(index.get_final_states())
    outside = index.get_initial_state()
    start = transitions[outside][end + 1]
    numbers = {state: i for i, state in enumerate([start, *(transitions.keys() - final - {outside, start})])}
    if len(numbers) > MAX_STATES or (len(numbers) + 1) * (end + 1) > MAX_ENTRIES:
        raise UnsupportedConstraint(f"this needs {len(numbers):,} states, which are too many; make it simpler")
    last = len(numbers)
    table = array("i", [-1]) * ((last + 1) * (end + 1))
    for state, row in numbers.items():
        for character, after in transitions[state].items():
            if character < end or after in final:
                table[row * (end + 1) + character] = last if after in final else numbers[after]
    return more, table.tobytes(), array("i", distances(table, last, end + 1)).tobytes()


def expression(node: Node, atom: bool = False) -> str:
    """The pattern as an expression for Rust's regex crate. `atom`: as one that a suffix repeats as a whole."""
    match node:
        case Characters(ranges):
            return charset.class_pattern(ranges)
        case Concatenation(parts):
            text = "".join(expression(part, isinstance(part, Alternation)) for part in parts)
        case Alternation(options):
            text = "|".join(map(expression, options))
        case Repetition(part, least, most):
            text = f"{expression(part, atom=True)}{{{least},{'' if most is None else most}}}"
    return f"(?:{text})" if atom else text


def distances(table: Sequence[int], last: int, columns: int) -> list[int]:
    """By state: the least number of characters after which the text may end. Raises UnsupportedConstraint if it never can."""
    before: list[list[int]] = [[] for _ in range(last + 1)]
    for state in range(last):
        for after in {*table[state * columns : (state + 1) * columns]} - {-1}:
            before[after].append(state)
    found = [UNREACHABLE] * last + [-1]  # the step to the last state writes no character
    reached = [last]
    for state in reached:
        for earlier in before[state]:
            if found[earlier] == UNREACHABLE:
                found[earlier] = found[state] + 1
                reached.append(earlier)
    found[last] = 0
    if found[0] == UNREACHABLE:
        raise UnsupportedConstraint(IMPOSSIBLE)
    return found


def _limit() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends this process
    with contextlib.suppress(ValueError, OSError):  # macOS refuses this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def main(file_descriptor: int) -> None:
    """Serves the connection until its other end is closed."""
    _limit()
    with contextlib.suppress(EOFError):
        serve(Connection(file_descriptor))
