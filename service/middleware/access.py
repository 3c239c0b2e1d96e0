"""Who may ask, and how much: API keys, a rate for each, and a number of requests open at a time.

Free for all are the page, the probes, and the API's documentation: they tell nothing about models or load.
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
from service.middleware.body_limit import has_body

if TYPE_CHECKING:
    from limits import RateLimitItem

FREE = re.compile(r"/(web/.*|health|healthz|ping|readyz|docs|redoc|openapi\.json|static-offline-docs/.*)?")


class Access:
    """Raw ASGI middleware. A client is a key, or where there are no keys an address; of IPv6, a network."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], rate_limit: str, max_open: int) -> None:
        """rate_limit: in the notation of `limits`, "" for none; max_open: requests of a client at a time, 0 for any number."""
        self._app, self._max_open = app, max_open
        self._keys = [_digest(key) for key in keys]
        self._rates: list[RateLimitItem] = []
        if rate_limit:
            from limits import parse_many  # takes a tenth of a second, which few servers need
            from limits.aio.storage import MemoryStorage
            from limits.aio.strategies import SlidingWindowCounterRateLimiter

            self._rates = parse_many(rate_limit)
            # Windows follow the wall clock: after a jump clients start in a fresh window, so none is locked out.
            self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or FREE.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            client = self._client(scope)
            await self._check_rate(client)
            self._check_open(client)
        except ApiError as error:
            response = error.response()
            if has_body(scope):
                response.headers["connection"] = "close"
            await response(scope, receive, send)
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
        given = headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
        if not given:
            message = "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY"
            raise ApiError(401, "missing_api_key", message, headers={"WWW-Authenticate": 'Bearer realm="folio"'})
        digest = _digest(given)
        # Digests are compared, and always all of them, so that the time it takes tells nothing about the keys.
        if not sum([hmac.compare_digest(digest, key) for key in self._keys]):
            challenge = {"WWW-Authenticate": 'Bearer realm="folio", error="invalid_token"'}
            raise ApiError(401, "invalid_api_key", "the API key is none of this server's", headers=challenge)
        scope.setdefault("state", {})["key"] = digest.hex()[:8]  # for the log
        return digest.hex()

    async def _check_rate(self, client: str) -> None:
        for rate in self._rates:
            if not await self._limiter.hit(rate, client):
                again = (await self._limiter.get_window_stats(rate, client)).reset_time - time.time()
                seconds = min(max(1, ceil(again)), rate.get_expiry())
                message = f"more than {rate} requests; try again in {seconds} s"
                raise ApiError(429, "rate_limited", message, headers={"Retry-After": str(seconds)})

    def _check_open(self, client: str) -> None:
        if self._max_open and self._open[client] >= self._max_open:
            message = f"{self._max_open} requests are open already, which is the most at a time"
            raise ApiError(429, "too_many_open", message, headers={"Retry-After": "1"})


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
