"""Which Host headers are answered: protects a server without API keys from DNS rebinding.

A page of evil.example can have that name resolve to 127.0.0.1 after it was loaded: its requests to itself then reach a server here,
and the browser lets the page read the answers, for they are of its own origin. Their Host header still says evil.example.
"""

import ipaddress
import re
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import ApiError
from service.middleware.body_limit import has_body

PROBES = ("/healthz", "/health", "/ping", "/readyz")  # asked by the address of a container, and they tell nothing
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s/@]*)(:[0-9]*)?")


class Hosts:
    """Raw ASGI middleware. Answers 421 to a foreign Host, and 400 to an HTTP/1.1 request that has not exactly one valid Host."""

    def __init__(self, app: ASGIApp, allowed: Collection[str], any_address: bool) -> None:
        """allowed: names, `*.example.org` for all below example.org, `*` for all; besides those of loopback.

        any_address: also any IP address, which no DNS server can change the meaning of.
        """
        self._app, self._any_address = app, any_address
        self._all = "*" in allowed
        self._names = {_normal(name) for name in allowed if not name.startswith("*")}
        self._endings = (".localhost", *(name.lower()[1:] for name in allowed if name.startswith("*.")))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._error(scope)):
            response = error.response()
            if has_body(scope):
                response.headers["connection"] = "close"
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _error(self, scope: Scope) -> ApiError | None:
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1 and (given or scope["http_version"] == "1.1"):
            return ApiError(400, "invalid_host", f"an HTTP/1.1 request needs exactly one Host header; this one has {len(given)}")
        if not given:
            return None  # no browser sends such a request
        if not (parts := HOST.fullmatch(given[0].strip())):
            return ApiError(400, "invalid_host", f"{given[0]!r} is no valid Host header")
        if self._all or scope["path"] in PROBES or self._allows(parts[1]):
            return None
        message = f"the Host {given[0]!r} is not one of this server's: give --allowed-hosts (SERVICE_ALLOWED_HOSTS) its name"
        return ApiError(421, "host_not_allowed", message)

    def _allows(self, given: str) -> bool:
        host = _normal(given)
        if isinstance(host, str):
            return host == "localhost" or host in self._names or host.endswith(self._endings)
        return self._any_address or host.is_loopback or host in self._names


def _normal(host: str) -> str | ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address, or a name in lower case without the root's dot."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower().removesuffix(".")
