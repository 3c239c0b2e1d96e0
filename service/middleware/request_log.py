"""Logs one line per request: method, path, status, duration and work done. Texts are logged only with --log-prompts.

Also counts responses for the metrics, and adds headers: the notes of the request (`service.notes`), and Anthropic's name of its id.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from asgi_correlation_id import correlation_id
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.disconnect import DISCONNECTED
from service.api.errors import is_anthropics, to_api_error
from service.api.job import Job
from service.middleware.access import PUBLIC
from service.notes import Notes, current
from service.weather import RequestFaults

log = logging.getLogger(__name__)

TIMED_OUT = 408  # in the log and the metrics: the server closed a connection on which the client sent or read too slowly
OF_JOB = " by {model} {version}, {prompt_characters:,} + {sent_characters:,} characters, {finish_reasons}"


class RequestLog:
    """Raw ASGI middleware. Logs an unhandled exception with its traceback and responds with 500."""

    def __init__(self, app: ASGIApp, log_prompts: bool, ignore_unknown_fields: bool, ignored_headers: Mapping[bytes, str]) -> None:
        """ignored_headers: by their lower-case names; the notes name them."""
        self._app, self._log_prompts = app, log_prompts
        self._ignore_unknown_fields, self._ignored_headers = ignore_unknown_fields, ignored_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, whole = time.perf_counter(), 0, False
        ignored = [self._ignored_headers[name] for name, _ in scope["headers"] if name in self._ignored_headers]
        notes = Notes(self._ignore_unknown_fields, ignored)
        scope.setdefault("state", {})  # `Paths` copies the scope; what is written into the state there must be found here

        async def noting_send(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status, headers = message["status"], MutableHeaders(scope=message)
                headers.update(notes.headers)
                if is_anthropics(scope):
                    headers["Request-Id"] = correlation_id.get() or ""
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        token = current.set(notes)
        try:
            await self._app(scope, receive, noting_send)
        except Exception as error:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if status:  # the response has started, and the server has to cut it
                raise
            await to_api_error(error).response(scope)(scope, receive, noting_send)
        finally:
            current.reset(token)
            if status == DISCONNECTED and _timed_out(scope):
                status = TIMED_OUT
            if status:  # 0: the client disconnected before a response
                scope["app"].state.metrics.count_response(status)
            self._write(scope, notes, status, whole, time.perf_counter() - start)

    def _write(self, scope: Scope, notes: Notes, status: int, whole: bool, seconds: float) -> None:
        probed = PUBLIC.fullmatch(scope["path"]) or (scope["path"] == "/metrics" and status < 400)
        level = logging.DEBUG if probed else logging.INFO
        state, timed_out = scope["state"], _timed_out(scope)
        job: Job | None = state.pop("job", None)  # a connection keeps the scope of its last request, which would keep the model
        faults: RequestFaults | None = state.pop("faults", None)
        if not log.isEnabledFor(level):
            return
        fields: dict[str, Any] = {
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 6),
            "client": scope["client"][0] if scope.get("client") else None,
        }
        if "key" in state:
            fields["key"] = state["key"]
        if notes.ignored_fields:
            fields["ignored_fields"] = notes.ignored_fields
        if notes.unknown_characters:
            fields["unknown_characters"] = notes.unknown_characters
        line = f"{scope['method']} {quote(scope['path'])} {status} in {seconds * 1000:.1f} ms"
        if job:
            if job.cut_by is None and (not whole or status >= 400):
                failed = status >= 500 or (faults and "cut" in faults.kinds)
                job.cut_by = "error" if failed else "timeout" if timed_out else "cancelled"
            fields |= job.log_fields
            line += OF_JOB.format_map(fields)
            if self._log_prompts:
                fields["prompts"] = list(dict.fromkeys(completion.prompt for completion in job.completions))
        if faults and faults.kinds:
            fields["planned_faults"] = faults.kinds
            line += f", by plan: {', '.join(faults.kinds)}"
        log.log(level, "%s", line, extra=fields)


def _timed_out(scope: Scope) -> bool:
    """Set by service.connection."""
    return bool(scope["state"].get("timed_out"))
