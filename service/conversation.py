"""A chat as every protocol understands it: turns, tools, and the parts of an answer. Knows nothing of HTTP."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from service.generation.constraints.compiler import Constraint

MAX_CALLS = 3  # calls of one answer, where several are allowed
RESULTS = ("tool", "function")  # roles of turns that hold the result of a call


class Turn(NamedTuple):
    """One message of a chat."""

    role: str
    name: str | None  # the speaker's, which is read instead of the role
    words: str


class Tool(NamedTuple):
    """A function that an answer may call."""

    name: str
    parameters: Mapping[str, Any] | bool  # JSON Schema of its arguments


ToolMode = Literal["auto", "none", "required", "one"]  # one: exactly one call, of the only tool


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What a chat request says and asks for."""

    turns: Sequence[Turn]
    continues: bool = False  # the last turn is continued, instead of answered
    format: Constraint | None = None  # of an answer that calls no tool
    format_field: str = "response_format"  # errors name it
    tools: Sequence[Tool] = ()
    tool_mode: ToolMode = "auto"
    parallel_calls: bool = False  # one answer may hold several calls

    def constraint(self, auto: str) -> Constraint | None:
        """What the answer is restricted to. auto: how to answer where the request leaves it open.

        auto is `text`; or `call` or `call NAME`, which answer a user's turn with a call and anything else, such as the result of a
        call, with a text. So an agent's loop ends. Raises ValueError for another value, and for a tool that the request lacks.
        """
        most = MAX_CALLS if self.parallel_calls and self.tool_mode != "one" else 1
        if not self.tools or self.tool_mode == "none":
            return self.format
        if self.tool_mode != "auto":
            return self._calls(self.tools, most)
        verb, _, name = auto.partition(" ")
        if verb not in ("text", "call") or (name and verb == "text"):
            raise ValueError(f"{auto!r} is none of text, call and call NAME")
        if verb == "text" or self.turns[-1].role in (*RESULTS, "assistant"):
            return self.format
        named = [tool for tool in self.tools if tool.name == name]
        if name and not named:
            raise ValueError(f"the request has no tool {name!r}; it has {', '.join(tool.name for tool in self.tools)}")
        return self._calls(named or self.tools, 1 if name else most)

    @staticmethod
    def _calls(tools: Sequence[Tool], most: int) -> Constraint:
        return Constraint("tools", {"tools": [[tool.name, tool.parameters] for tool in tools], "most": most})


def call_turn(calls: Sequence[tuple[str, str | Mapping[str, Any]]]) -> Turn:
    """The turn in which the assistant made calls, each (name of the tool, arguments as an object or its JSON)."""
    return Turn("assistant", None, "\n".join(f"{name} {_json(arguments)}" for name, arguments in calls))


def _json(arguments: str | Mapping[str, Any]) -> str:
    """As the model writes it."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))


class Text(NamedTuple):
    """Some characters of an answer."""

    text: str


class CallBegun(NamedTuple):
    call: int  # its number within the answer
    id: str
    name: str


class Arguments(NamedTuple):
    """Some characters of a call's arguments, which together are JSON."""

    call: int
    text: str


Part = Text | CallBegun | Arguments


@dataclass
class Reply:
    """Divides an answer into texts and calls while it is generated. A call is written as `NAME {arguments}`, each on a line."""

    calls: bool  # the answer consists of calls
    id_of: Callable[[int], str]  # the id of the answer's n-th call
    _call: int = field(init=False, default=-1)  # of the latest call
    _name: str | None = field(init=False, default="")  # what is known of the next call's name; None: its arguments are read

    def read(self, text: str) -> list[Part]:
        """The parts in the next characters of the answer."""
        if not self.calls:
            return [Text(text)] if text else []
        parts: list[Part] = []
        while text:
            if self._name is not None:
                name, found, text = text.partition(" ")
                self._name += name
                if found:
                    self._call += 1
                    parts.append(CallBegun(self._call, self.id_of(self._call), self._name))
                    self._name = None
            else:
                arguments, ended, text = text.partition("\n")
                if arguments:
                    parts.append(Arguments(self._call, arguments))
                if ended:
                    self._name = ""
        return parts


class Call(NamedTuple):
    id: str
    name: str
    arguments: str  # JSON


def calls_in(parts: Iterable[Part]) -> list[Call]:
    """The calls of an answer, for protocols that write each as a whole."""
    calls: list[Call] = []
    for part in parts:
        match part:
            case CallBegun(_, call_id, name):
                calls.append(Call(call_id, name, ""))
            case Arguments(i, text):
                calls[i] = calls[i]._replace(arguments=calls[i].arguments + text)
    return calls
