"""Renders the part of Helm's template language that deploy/helm uses. The gate has no `helm`.

Raises NotSupported for anything else, so that a template which this cannot check is not taken for a good one.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

ACTION = re.compile(r"(?P<before>\s*)\{\{(?P<trim>-?)\s*(?P<action>.*?)\s*(?P<trim_after>-?)\}\}(?P<after>\s*)", re.DOTALL)


class NotSupported(Exception):
    """A template uses something that is not implemented here."""


def render(template: str, context: Mapping[str, Any]) -> str:
    """context: Values, Release and Chart."""
    tokens = _tokens(template)
    text = _block(tokens, context)[0]
    if next(tokens, None):
        raise NotSupported("an `end` without a beginning")
    return text


def _tokens(template: str) -> Iterator[tuple[str, str]]:
    """("text" or "action", content). A `-` beside an action removes the white space there."""
    position = 0
    for found in ACTION.finditer(template):
        text = template[position : found.start()] + ("" if found["trim"] else found["before"])
        yield "text", text
        yield "action", found["action"]
        position = found.end() if found["trim_after"] else found.end() - len(found["after"])
    yield "text", template[position:]


def _block(tokens: Iterator[tuple[str, str]], context: Mapping[str, Any]) -> tuple[str, str]:
    """(The text up to the block's `end` or `else`, that action or "")."""
    parts = []
    for kind, content in tokens:
        if kind == "text":
            parts.append(content)
        elif content == "end" or content.startswith("else"):
            return "".join(parts), content
        elif content.startswith("if "):
            parts.append(_condition(content[3:], tokens, context))
        elif found := re.fullmatch(r"range \$(\w+), \$(\w+) := (.+)", content):
            parts.append(_range(found, tokens, context))
        else:
            parts.append(str(_value(content, context)))
    return "".join(parts), ""


def _condition(expression: str, tokens: Iterator[tuple[str, str]], context: Mapping[str, Any]) -> str:
    if equal := re.fullmatch(r'eq (\S+) "(.*)"', expression):
        holds = _look_up(equal[1], context) == equal[2]
    else:
        holds = bool(_value(expression, context))
    text, ended = _block(tokens, context)
    if ended == "end":
        return text if holds else ""
    if ended == "else":
        otherwise, ended = _block(tokens, context)
        if ended != "end":
            raise NotSupported(f"`{ended}` after `else`")
    elif ended.startswith("else if "):
        otherwise = _condition(ended.removeprefix("else if "), tokens, context)
    else:
        raise NotSupported("an `if` without an end")
    return text if holds else otherwise


def _range(found: re.Match[str], tokens: Iterator[tuple[str, str]], context: Mapping[str, Any]) -> str:
    name, value, expression = found.groups()
    body, ended = list[tuple[str, str]](), ""
    for kind, content in tokens:
        if kind == "action" and content.startswith(("if ", "range ")):
            raise NotSupported("a block in a `range`")
        if (kind, content) == ("action", "end"):
            ended = content
            break
        body.append((kind, content))
    if not ended:
        raise NotSupported("a `range` without an end")
    items = sorted(_value(expression, context).items())
    return "".join(_block(iter(body), {**context, f"${name}": key, f"${value}": item})[0] for key, item in items)


def _value(expression: str, context: Mapping[str, Any]) -> Any:
    first, *pipes = (part.strip() for part in expression.split("|"))
    if first.startswith("toYaml "):
        first, pipes = first.removeprefix("toYaml "), ["toYaml", *pipes]
    value = _look_up(first, context)
    for pipe in pipes:
        name, _, argument = pipe.partition(" ")
        if name == "quote":
            value = json.dumps(str(value))
        elif name == "default":
            value = value or _look_up(argument, context)
        elif name == "toYaml":
            value = yaml.safe_dump(value).rstrip("\n")
        elif name == "nindent":
            value = "\n" + "\n".join(" " * int(argument) + line for line in value.split("\n"))
        else:
            raise NotSupported(pipe)
    return value


def _look_up(path: str, context: Mapping[str, Any]) -> Any:
    """A misspelt value is an error here. Helm would render nothing."""
    if path.startswith("$"):
        return context[path]
    if not re.fullmatch(r"(\.\w+)+", path):
        raise NotSupported(path)
    value: Any = context
    for name in path.split(".")[1:]:
        value = value[name]
    return value
