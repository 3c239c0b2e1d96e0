"""Parses HTTP/1.1 and ignores `Upgrade`, as a server may (RFC 9110, 7.8).

httptools ends such a request after its headers and takes its body for another protocol. Java's HttpClient and `curl --http2` offer
HTTP/2 with every request, so their bodies would be lost.
"""

from typing import Any

import httptools


class Parser:
    """httptools' parser. Where a request offers an upgrade, it starts again with the same headers without `Upgrade`.

    Meanwhile `offers_upgrade` is true, and the protocol's callbacks do nothing.
    """

    def __init__(self, protocol: Any) -> None:
        """protocol: what httptools calls. It has the request's `headers` and `url`."""
        self._protocol = protocol
        self._start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    @property
    def offers_upgrade(self) -> bool:
        """Whether the request is read again. CONNECT is not: it has no meaning without what follows."""
        return bool(self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT")

    def feed_data(self, data: bytes) -> None:
        """Raises httptools.HttpParserError, and httptools.HttpParserUpgrade for CONNECT."""
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if not self.offers_upgrade:
                    raise
                (rest,) = upgrade.args
                request = b"%s %s HTTP/%s\r\n" % (
                    self._parser.get_method(),
                    self._protocol.url,
                    self._parser.get_http_version().encode(),
                )
                kept = [b"%s: %s\r\n" % header for header in self._protocol.headers if header[0] != b"upgrade"]
                self._start()
                self._parser.feed_data(b"".join([request, *kept, b"\r\n"]))
                data = data[rest:]

    def _start(self) -> None:
        self._parser = httptools.HttpRequestParser(self._protocol)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
