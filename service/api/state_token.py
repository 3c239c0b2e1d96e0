"""State tokens: a client carries the network's state of a text, so that any replica continues it without reading it again.

A token is signed, because its content is fed to the network unchecked.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from service.api.errors import ApiError, invalid_field
from service.generation.backend import STATES, State
from service.registry import Model


@dataclass(frozen=True)
class StateToken:
    """Where a text can be continued."""

    seed: int
    num_sampled: int  # random numbers of the seed that have been used
    state: State | None  # None: zeros
    ids: Sequence[int]  # to read from that state on

    def encode(self, model: Model, secret: str) -> str:
        head = {
            "model": model.config.name,
            "version": model.config.version,
            "weights": model.weights_digest,
            "seed": self.seed,
            "drawn": self.num_sampled,
            "ids": list(self.ids),
        }
        state = b"" if self.state is None else self.state.astype("<f4").tobytes()
        payload = json.dumps(head).encode() + b"\n" + state
        return base64.urlsafe_b64encode(_signature(payload, secret) + payload).decode()

    @classmethod
    def decode(cls, text: str, model: Model, secret: str) -> "StateToken":
        """Raises ApiError (410: the version is no longer served; 422: the token was not issued by this service)."""
        try:
            data = base64.b64decode(text.encode("ascii"), b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            data = b""
        size = hashlib.sha256().digest_size
        signature, payload = data[:size], data[size:]
        if not hmac.compare_digest(signature, _signature(payload, secret)):
            raise invalid_field("state", "this token was not issued by this service, or is incomplete", "invalid_state")
        line, _, state = payload.partition(b"\n")
        head = _Head.model_validate_json(line)
        config = model.config
        if head.model != config.name:
            raise invalid_field("state", f"the token belongs to model {head.model}, not to {config.name}", "invalid_state")
        if head.weights != model.weights_digest:
            raise ApiError(
                410,
                "version_gone",
                f"state: the token belongs to version {head.version} of {config.name}, which is no longer served. It is now at "
                f"version {config.version}",
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
