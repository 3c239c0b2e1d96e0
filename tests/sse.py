"""A reader of server-sent events, after the WHATWG's 'Interpreting an event stream': split on line ends only."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    name: str
    data: Any
    id: str | None


def events(chunks: Iterable[bytes]) -> Iterator[Event]:
    rest = b""
    for chunk in chunks:
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            lines = (re.fullmatch(r"([a-z]*): ?(.*)", line, re.DOTALL) for line in block.decode().split("\n"))
            fields = {line[1]: line[2] for line in lines if line}
            if "data" in fields:
                yield Event(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id"))
    assert rest == b"", "the stream stopped short of an event's end"
