"""Continues a text by a Folio server: streams the answer, and resumes it when the connection is cut."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import httpx

from service.listening import is_loopback

ADDRESS = "http://127.0.0.1:8000"
KEY = "FOLIO_API_KEY"  # the environment variable with the key for a server that requires one
TRIES = 5  # to resume a stream, after 1/2, 1, 2 and 4 seconds
OTHER_SHAPE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # from reading another server's answer


class Receipt(NamedTuple):
    """What is known of a text once it has ended."""

    characters: int  # generated
    characters_per_second: float
    finish_reason: str
    model: str
    version: int
    engine: str
    precision: str
    seed: int

    def __str__(self) -> str:
        return (
            f"{self.characters:,} characters ({self.finish_reason}), {self.characters_per_second:,.0f} a second, by {self.model} "
            f"{self.version} on {self.engine} in {self.precision}; seed {self.seed}"
        )


class Unreachable(Exception):
    """There is no server at the address, it is not a Folio server, or it refused or failed. The message says which."""


def answers(address: str) -> bool:
    """A Folio server answers at the address."""
    try:
        return httpx.get(f"{address}/healthz", timeout=2, trust_env=False).json()["status"] in ("ok", "degraded-by-plan")
    except (httpx.HTTPError, *OTHER_SHAPE):
        return False


class RemoteServer:
    """A Folio server at an address, with or without /v1 at its end."""

    def __init__(self, address: str) -> None:
        """Raises Unreachable for an address or a key that cannot be valid."""
        key = os.environ.get(KEY, "")
        if not re.fullmatch(r"[!-~]*", key):
            raise Unreachable(f"the variable {KEY} is not an API key: a key has no blanks, line breaks or non-ASCII characters")
        self._address = address.rstrip("/").removesuffix("/v1").rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            # A proxy is not for this machine.
            trust_env = not is_loopback(httpx.URL(self._address).host)
            self._client = httpx.Client(base_url=self._address, headers=headers, timeout=60, trust_env=trust_env)
        except httpx.InvalidURL as error:
            raise Unreachable(f"{self._address}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def unknown_characters(self, text: str, model: str | None) -> tuple[str, set[str]]:
        """(The model's name, the characters of the text that it does not know). Nothing if the server does not say."""
        try:
            answer = self._client.post("/vectorize", json={"text": text, "model": model}).json()
            return answer["model"], {one["character"] for one in answer["unknown"]}
        except (httpx.HTTPError, *OTHER_SHAPE):
            return "", set()  # the generation will say what is wrong

    def generate(self, content: str, write: Callable[[str], None]) -> Receipt:
        """Streams one generation to `write`; a stream that is cut is resumed after the last whole event.

        content: the request's body. Raises Unreachable.
        """
        headers = {"Content-Type": "application/json"}
        tries = TRIES
        while True:
            try:
                with self._client.stream("POST", "/generate", content=content, headers=headers) as response:
                    self._check(response, resuming="Last-Event-ID" in headers)
                    for name, data, headers["Last-Event-ID"] in _events(response.iter_raw()):
                        if name == "done":
                            usage, timings = data["usage"], data["timings"]
                            others = [data[name] for name in Receipt._fields[2:]]
                            return Receipt(int(usage["generated_characters"]), timings["characters_per_second"] + 0.0, *others)
                        if name == "error":
                            raise Unreachable(str(data["error"]["message"]))
                        write(data["text"])
                        tries = TRIES
                raise httpx.RemoteProtocolError("the stream stopped short")
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                tries -= 1
                if "Last-Event-ID" not in headers or not tries:
                    raise Unreachable(f"{self._address}: {error}") from error
                time.sleep(2 ** (TRIES - tries) / 4)
            except OTHER_SHAPE as error:
                raise Unreachable(f"{self._address}: not a Folio server") from error

    def _check(self, response: httpx.Response, *, resuming: bool) -> None:
        """Raises what `generate` handles, unless the answer is an event stream."""
        if response.status_code in (429, 503) and resuming:
            raise httpx.RemoteProtocolError(f"answered {response.status_code}")
        if response.status_code != 200:
            message = json.loads(response.read())["error"]["message"]
            if not isinstance(message, str):
                raise TypeError(f"the message is {message!r}")
            raise Unreachable(f"{message}; set the variable {KEY} to a valid key" if response.status_code == 401 else message)
        if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
            raise TypeError("its answer is no event stream")


def _events(chunks: Iterator[bytes]) -> Iterator[tuple[str, Any, str]]:
    """(Name, data, id) of each event. Splits at line feeds only: text may hold other line ends."""
    rest = b""
    for chunk in chunks:
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if not line.startswith(":"))
            if "data" in fields:
                yield fields.get("event", "message"), json.loads(fields["data"]), fields["id"]
