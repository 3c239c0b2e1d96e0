"""Checks the Host header, which protects a server without API keys from DNS rebinding.

Once a page of evil.example is loaded, the name's DNS record can change to 127.0.0.1. The page's requests to its own origin then
reach a server on this machine, and the browser lets it read the responses. But their Host header still says evil.example.
"""

import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import ApiError
from service.middleware.body_limit import refuse

HEALTH = ("/healthz", "/health", "/ping", "/readyz")  # called by a container's address; they reveal nothing
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s/@]*)(:[0-9]*)?")


class Hosts:
    """Raw ASGI middleware. 421 for a foreign Host, 400 for an HTTP/1.1 request without exactly one valid Host."""

    def __init__(self, app: ASGIApp, allowed: Collection[str], any_address: bool) -> None:
        """allowed: names in addition to loopback's, `*.example.org` for all subdomains, or `*` for all names.
        any_address: allow any IP address, since no DNS server can change what it means.
        """
        self._app, self._any_address = app, any_address
        self._all = "*" in allowed
        self._names = {_normal(name) for name in allowed if not name.startswith("*")}
        self._endings = (".localhost", *(name.lower()[1:] for name in allowed if name.startswith("*.")))
        self._allows = lru_cache(maxsize=128)(self._is_allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._error(scope)):
            await refuse(error, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _error(self, scope: Scope) -> ApiError | None:
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1 and (given or scope["http_version"] == "1.1"):
            return ApiError(400, "invalid_host", f"an HTTP/1.1 request needs exactly one Host header, this one has {len(given)}")
        if not given:
            return None  # no browser sends a request without Host
        if not (parts := HOST.fullmatch(given[0].strip())):
            return ApiError(400, "invalid_host", f"{given[0]!r} is not a valid Host header")
        if self._all or scope["path"] in HEALTH or self._allows(parts[1]):
            return None
        message = f"this server does not accept the Host {given[0]!r}; --allowed-hosts (SERVICE_ALLOWED_HOSTS) adds names"
        return ApiError(421, "host_not_allowed", message)

    def _is_allowed(self, given: str) -> bool:
        host = _normal(given)
        if isinstance(host, str):
            return host == "localhost" or host in self._names or host.endswith(self._endings)
        return self._any_address or host.is_loopback or host in self._names


def _normal(host: str) -> str | ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address, or the name in lower case without a final dot."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower().removesuffix(".")
