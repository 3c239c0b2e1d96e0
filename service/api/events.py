"""Server-sent events as bytes, and as the OpenAPI document describes them."""

from typing import Any

LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}  # JSON itself escapes all others
COMMENT = b": keep-alive\n"  # one line feed: after two, some clients take the event before it for another


def event(data: str, name: str | None = None, *, id: str | None = None) -> bytes:  # noqa: A002 - the field's name
    """One event of JSON. Escapes the line ends that JSON does not and that some clients split at."""
    if not data.isascii():
        data = data.translate(LINE_ENDS)
    named, identified = f"event: {name}\n" if name else "", f"id: {id}\n" if id else ""
    # A lone surrogate, which UTF-8 cannot encode, becomes the escape that JSON has for it.
    return f"{named}data: {data}\n{identified}\n".encode("utf-8", "backslashreplace")


def stream_content(data: str) -> dict[str, Any]:
    """The OpenAPI `content` of a streamed answer. data: describes the events' data."""
    text = {"type": "string"}
    schema = {"type": "object", "properties": {"event": text, "data": text | {"description": data}, "id": text}}
    return {"text/event-stream": {"schema": schema}}
