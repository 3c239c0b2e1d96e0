"""What the handling of a request has to say beside its answer: which fields were ignored, how many characters were left out.

Any code that handles a request may note something; the middleware sends it as response headers, and the log has it too. The notes
are in a context variable, because the validation of a body knows no request.
"""

import re
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

IGNORED, UNKNOWN = "X-Ignored-Fields", "X-Unknown-Characters"
HEADERS = [IGNORED, UNKNOWN]

OnUnknownFields = Literal["refuse", "ignore"]


@dataclass
class Notes:
    """Of one request."""

    on_unknown_fields: OnUnknownFields
    ignored_fields: list[str] = field(default_factory=list)
    unknown_characters: int = 0  # left out or replaced

    @property
    def headers(self) -> dict[str, str]:
        names = [re.sub(r"[^!-+\--~]", "?", name[:100]) for name in self.ignored_fields]
        found = {IGNORED: ", ".join(names), UNKNOWN: str(self.unknown_characters or "")}
        return {header: value for header, value in found.items() if value}


current: ContextVar[Notes] = ContextVar("notes")


def note_unknown_characters(count: int) -> None:
    """Adds to the number of characters of the request's texts that were left out or replaced."""
    if notes := current.get(None):
        notes.unknown_characters += count
