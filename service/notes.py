"""Notes about a request: its ignored fields, and the number of unknown characters removed or replaced.

`RequestLog` sends them as response headers and logs them. They are in a context variable because
pydantic's validators have no access to the request.
"""

import re
from contextvars import ContextVar
from dataclasses import dataclass, field

IGNORED, UNKNOWN = "X-Ignored-Fields", "X-Unknown-Characters"
HEADERS = [IGNORED, UNKNOWN]

MAX_IGNORED = 20  # ignored fields that are named


@dataclass
class Notes:
    """The notes of one request."""

    ignore_unknown_fields: bool
    ignored_fields: list[str] = field(default_factory=list)
    unknown_characters: int = 0  # removed or replaced

    @property
    def headers(self) -> dict[str, str]:
        names = [re.sub(r"[^!-+\--~]", "?", name[:100]) for name in self.ignored_fields]
        found = {IGNORED: ", ".join(names), UNKNOWN: str(self.unknown_characters or "")}
        return {header: value for header, value in found.items() if value}


current: ContextVar[Notes] = ContextVar("notes")


def note_unknown_characters(count: int) -> None:
    """Adds to the number of characters removed from or replaced in the request's texts."""
    if notes := current.get(None):
        notes.unknown_characters += count


def forget_unknown_characters() -> None:
    """Called before the request's texts are read again."""
    if notes := current.get(None):
        notes.unknown_characters = 0


def note_ignored(field: str) -> None:
    """Adds a field to those of the request that were ignored."""
    if (notes := current.get(None)) and field not in notes.ignored_fields and len(notes.ignored_fields) < MAX_IGNORED:
        notes.ignored_fields.append(field)


def ignores_unknown_fields() -> bool:
    """Whether the request's unknown fields are ignored. Otherwise they are rejected."""
    notes = current.get(None)
    return notes is not None and notes.ignore_unknown_fields
