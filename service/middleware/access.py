"""Access control: API keys, and for each client a rate limit and a number of concurrent requests.

The playground, the health checks and the API's documentation need no key, because they reveal nothing about models and load.
"""

import hashlib
import hmac
import re
import time
from collections import Counter
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.addresses import network
from service.api.errors import ApiError
from service.middleware.body_limit import refuse

if TYPE_CHECKING:
    from limits import RateLimitItem

PUBLIC = re.compile(r"/(web/.*|health|healthz|ping|readyz|docs|redoc|openapi\.json|static-offline-docs/.*)?")


class Access:
    """Raw ASGI middleware. A client is an API key. Without keys it is an IPv4 address or an IPv6 network."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], rate_limit: str, max_open: int) -> None:
        """rate_limit: in the notation of `limits`, or "" for none. max_open: a client's concurrent requests, or 0 for no limit."""
        self._app, self._max_open = app, max_open
        self._keys = [_digest(key) for key in keys]
        self._rates: list[RateLimitItem] = []
        if rate_limit:
            from limits import parse_many  # the import takes 0.1 s, and few servers need it
            from limits.aio.storage import MemoryStorage
            from limits.aio.strategies import SlidingWindowCounterRateLimiter

            self._rates = parse_many(rate_limit)
            # Windows follow the wall clock. After a jump of the clock clients start in a new window, so none is locked out.
            self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or PUBLIC.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            client = self._client(scope)
            await self._check_rate(client)
            self._check_open(client)
        except ApiError as error:
            await refuse(error, scope, receive, send)
            return
        self._open[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]

    def _client(self, scope: Scope) -> str:
        """Raises ApiError for a missing or unknown key."""
        if not self._keys:
            return network(scope["client"][0]) if scope["client"] else ""
        headers = Headers(scope=scope)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
        if not key:
            message = "an API key is required: send Authorization: Bearer KEY or X-API-Key: KEY"
            raise ApiError(401, "missing_api_key", message, headers={"WWW-Authenticate": 'Bearer realm="folio"'})
        digest = _digest(key)
        # All digests are always compared, so that the time reveals nothing about the keys.
        if not sum([hmac.compare_digest(digest, known) for known in self._keys]):
            challenge = {"WWW-Authenticate": 'Bearer realm="folio", error="invalid_token"'}
            raise ApiError(401, "invalid_api_key", "the API key is not valid", headers=challenge)
        scope.setdefault("state", {})["key"] = digest.hex()[:8]  # for the log
        return digest.hex()

    async def _check_rate(self, client: str) -> None:
        for rate in self._rates:
            if not await self._limiter.hit(rate, client):
                reset = (await self._limiter.get_window_stats(rate, client)).reset_time - time.time()
                seconds = min(max(1, ceil(reset)), rate.get_expiry())
                message = f"the rate limit of {rate} is exceeded; try again in {seconds} s"
                raise ApiError(429, "rate_limited", message, headers={"Retry-After": str(seconds)})

    def _check_open(self, client: str) -> None:
        if self._max_open and self._open[client] >= self._max_open:
            message = f"{self._max_open} requests of this client are open, which is the limit"
            raise ApiError(429, "too_many_open", message, headers={"Retry-After": "1"})


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
