"""The log: plain lines or one JSON object per line, with the id of the request."""

import logging
import sys
from typing import Literal, TextIO

from asgi_correlation_id import CorrelationIdFilter, correlation_id
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter


def configure(form: Literal["auto", "plain", "json"]) -> None:
    """Logs to stderr from level INFO. auto: plain on a terminal, else JSON."""
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    logging.getLogger("asgi_correlation_id").setLevel(logging.ERROR)  # it warns of every request id that is not accepted
    logging.basicConfig(level=logging.INFO, handlers=[json_handler(sys.stderr) if as_json else plain_handler(sys.stderr)])


def json_handler(stream: TextIO) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.addFilter(CorrelationIdFilter())
    handler.setFormatter(
        JsonFormatter(
            "{levelname}{name}{correlation_id}{message}",
            style="{",
            timestamp="time",
            rename_fields={"levelname": "level", "name": "logger", "correlation_id": "request_id"},
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for terminals
        )
    )
    return handler


def plain_handler(stream: TextIO) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Plain())
    return handler


class Plain(logging.Formatter):
    """Adds the request's id and its start strings, which are fields of their own in JSON, to the line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        of_request = f"[{given}] " if (given := correlation_id.get()) else ""
        prompts = "".join(f" {prompt!r}" for prompt in getattr(record, "prompts", []))  # escaped, so that they cannot forge a line
        return f"{record.levelname}:     {of_request}{record.message}{prompts}"
