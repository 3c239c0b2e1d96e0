"""What the handling of a request has to say beside its answer: which fields were ignored, how many characters were left out.

Any code that handles a request may note something; the middleware sends it as response headers, and the log has it too. The notes
are in a context variable, because the validation of a body knows no request.
"""

import re
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

IGNORED, UNKNOWN = "X-Ignored-Fields", "X-Unknown-Characters"
HEADERS = [IGNORED, UNKNOWN]
MOST_NAMED = 20  # ignored fields
MOST_ROUNDS = 100  # of validation: one shows the unknown fields of one message

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


_notes: ContextVar[Notes] = ContextVar("notes")


def note_unknown_characters(count: int) -> None:
    """Adds to the number of characters of the request's texts that were left out or replaced."""
    if notes := _notes.get(None):
        notes.unknown_characters += count


class NotesMiddleware:
    """Raw ASGI middleware. Keeps a request's notes in its scope's state, for the log."""

    def __init__(self, app: ASGIApp, on_unknown_fields: OnUnknownFields) -> None:
        self._app, self._on_unknown_fields = app, on_unknown_fields

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        notes = Notes(self._on_unknown_fields)
        scope.setdefault("state", {})["notes"] = notes

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start" and notes.headers:
                MutableHeaders(scope=message).update(notes.headers)
            await send(message)

        token = _notes.set(notes)
        try:
            await self._app(scope, receive, noting)
        finally:
            _notes.reset(token)


def _validate(body: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    notes = _notes.get(None)
    for _ in range(MOST_ROUNDS):
        try:
            return validate(body)
        except ValidationError as error:
            places = [fault["loc"] for fault in error.errors() if fault["type"] == "extra_forbidden"]
            if not places or notes is None or notes.on_unknown_fields == "refuse":
                raise
            for place in places:
                body = _without(body, place)
            notes.ignored_fields = [*dict.fromkeys([*notes.ignored_fields, *(str(place[-1]) for place in places)])][:MOST_NAMED]
    return validate(body)


def drop_unknown(fields: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The fields of a query; without the unknown ones where these are ignored."""
    notes = _notes.get(None)
    if notes is None or notes.on_unknown_fields == "refuse":
        return dict(fields)
    notes.ignored_fields += [name for name in fields if name not in known][:MOST_NAMED]
    return {name: value for name, value in fields.items() if name in known}


def _without(part: Any, place: tuple[int | str, ...]) -> Any:
    """The part of a body without the field at that place, in every item of the lists on the way there."""
    head, *rest = place
    if isinstance(part, list):
        return [_without(item, tuple(rest)) for item in part] if isinstance(head, int) else _without(part, tuple(rest))
    if not isinstance(part, dict):
        return part
    if not rest:
        return {name: value for name, value in part.items() if name != head}
    if head in part:
        return part | {head: _without(part[head], tuple(rest))}
    return _without(part, tuple(rest))  # `head` is no field but pydantic's name for a union's branch


UnknownFields = WrapValidator(_validate)
"""For a body's type: unknown fields are refused or ignored, as the server was started."""
