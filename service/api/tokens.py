"""What clients carry so that any replica can go on: the ids of a stream's events, and state tokens.

A text depends only on its request, its seed and the version, so an event's id need only name these and how much has been
sent: what came before is generated again and skipped. A state token holds what the network remembers of a text, so nothing
is generated again; it is signed, because its content is fed to the network unchecked.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from service.api.errors import ApiError, StreamEnded
from service.api.fields import MAX_SEED
from service.generation.backend import STATES, State
from service.registry import Model

EVENT_ID = re.compile(r"([0-9a-f]{32})-([0-9a-f]{12})-([0-9]{1,9})-([0-9a-f]{12})-([0-9]{1,20})-([0-9]{1,9})(-end)?")


@dataclass(frozen=True)
class EventId:
    """A stream's event: `sent` characters of the answer came with it and those before it; `end`: there are no more."""

    request: str  # the answer's id
    asked: str  # digest of what was asked for, including the arithmetic
    version: int
    weights: str  # the beginning of their SHA-256
    seed: int
    sent: int
    end: bool = False

    @property
    def prefix(self) -> str:
        """All but `sent` and `end`, which an event's id ends with."""
        return f"{self.request}-{self.asked}-{self.version}-{self.weights}-{self.seed}-"

    @classmethod
    def parse(cls, text: str) -> "EventId":
        """Raises ApiError (422)."""
        found = EVENT_ID.fullmatch(text)
        if not found or int(found[5]) > MAX_SEED:
            raise ApiError(422, "invalid_event_id", "Last-Event-ID: not the id of an event of this service", param="Last-Event-ID")
        request, asked, version, weights, seed, sent, end = found.groups()
        return cls(request, asked, int(version), weights, int(seed), int(sent), end is not None)

    def check(self, model: Model, asked: str, seed: int | None) -> None:
        """Raises ApiError: 410 if the version is no longer served, 422 for another request's id; or StreamEnded."""
        if self.weights != weights_digest(model):
            raise ApiError(
                410,
                "version_gone",
                f"the stream was of version {self.version}, which is not served any more: {model.config.name} is at "
                f"{model.config.version}; send the request without Last-Event-ID",
                param="Last-Event-ID",
            )
        if self.asked != asked or seed not in (None, self.seed):
            raise ApiError(
                422,
                "other_request",
                "Last-Event-ID: of a stream that another request began, or under another arithmetic; send the same again",
                param="Last-Event-ID",
            )
        if self.end:
            raise StreamEnded


def weights_digest(model: Model) -> str:
    return model.config.sha256.weights[:12]


def digest(model: Model, body: BaseModel) -> str:
    """Of everything a text depends on except the version and the seed."""
    asked = body.model_dump(mode="json", exclude={"seed", "stream", "pace"})
    return hashlib.sha256(json.dumps([asked, model.arithmetic]).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class StateToken:
    """Where a text can be continued: what the network remembers (None: nothing), and the ids to read from there on."""

    seed: int
    drawn: int  # uniforms of the seed that have been used
    state: State | None
    ids: Sequence[int]

    def encode(self, model: Model, secret: str) -> str:
        head = {
            "model": model.config.name,
            "version": model.config.version,
            "weights": weights_digest(model),
            "seed": self.seed,
            "drawn": self.drawn,
            "ids": list(self.ids),
        }
        state = b"" if self.state is None else self.state.astype("<f4").tobytes()
        payload = json.dumps(head).encode() + b"\n" + state
        return base64.urlsafe_b64encode(_signature(payload, secret) + payload).decode()

    @classmethod
    def decode(cls, text: str, model: Model, secret: str) -> "StateToken":
        """Raises ApiError: 410 if the version is no longer served, 422 for anything that this service did not sign."""
        try:
            data = base64.b64decode(text.encode("ascii"), b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            data = b""
        size = hashlib.sha256().digest_size
        signature, payload = data[:size], data[size:]
        if not hmac.compare_digest(signature, _signature(payload, secret)):
            raise ApiError(422, "invalid_state", "state: not a token that this service gave, or not all of it", param="state")
        line, _, state = payload.partition(b"\n")
        head = _Head.model_validate_json(line)
        config = model.config
        if head.model != config.name:
            raise ApiError(422, "invalid_state", f"state: of model {head.model}, not of {config.name}", param="state")
        if head.weights != weights_digest(model):
            raise ApiError(
                410,
                "version_gone",
                f"state: of version {head.version} of {config.name}, which is not served any more; it is at {config.version}",
                param="state",
            )
        shape = (STATES[config.cell] * config.layers, config.units)
        return cls(head.seed, head.drawn, np.frombuffer(state, "<f4").reshape(shape) if state else None, head.ids)


class _Head(BaseModel):
    model: str
    version: int
    weights: str
    seed: int
    drawn: int
    ids: list[int]


def _signature(payload: bytes, secret: str) -> bytes:
    return hmac.digest(secret.encode(), payload, "sha256")
