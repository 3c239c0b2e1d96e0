"""A plan of delays and faults, with which tests of clients rehearse production: `--faults FILE` or the header of a request."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

HEADER = "X-Folio-Faults"
MAX_MS = 3_600_000.0
MAX_SEED = 2**63 - 1

Milliseconds = Annotated[float, Field(ge=0, le=MAX_MS)]
Seconds = Annotated[float, Field(ge=0, le=MAX_MS / 1000)]
Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class InvalidPlan(ValueError):
    """The message names the field."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Latency(Part):
    """A distribution of times in milliseconds. A number alone is a constant."""

    distribution: Literal["constant", "normal", "lognormal"] = "constant"
    mean: Milliseconds = 0
    stddev: Milliseconds = 0  # of the times themselves, also for lognormal
    per_running: Milliseconds = 0  # added for each other open request

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, given: Any) -> Any:
        return {"mean": given} if isinstance(given, int | float) and not isinstance(given, bool) else given

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        if self.distribution == "constant" and self.stddev:
            raise ValueError("a constant has no stddev: set distribution to normal or lognormal")
        if self.distribution == "lognormal" and self.mean < 0.001:
            raise ValueError("a lognormal distribution needs a mean of at least 0.001")
        return self


class ErrorRate(Part):
    """Answers a fraction of the requests with an error."""

    status: int = Field(ge=400, le=599)
    rate: Rate = 1
    retry_after: Count | None = None  # seconds


class Break(Part):
    """Breaks a fraction of the answers, at character `at` of a stream's text or byte `at` of a JSON body.

    A stall comes before a JSON answer: only as long as nothing is sent does the server see that a client has disconnected.
    """

    kind: Literal["cut", "stall", "malformed", "truncated"]
    at: Count = 0
    rate: Rate = 1
    seconds: Seconds | None = None  # of a stall; None: until the client disconnects or the server stops

    @model_validator(mode="after")
    def _seconds_of_a_stall(self) -> Self:
        if self.seconds is not None and self.kind != "stall":
            raise ValueError(f"only a stall has seconds, not kind {self.kind}")
        return self


class RateLimits(Part):
    """The x-ratelimit headers. `counts`: they count down, and requests beyond them are answered with 429."""

    requests: Count | None = None
    tokens: Count | None = None
    reset_seconds: Seconds = 60
    counts: bool = False


class Conditions(Part):
    """What happens to the requests for a model."""

    ttft_ms: Latency | None = None  # before the first character
    itl_ms: Latency | None = None  # between two characters
    errors: tuple[ErrorRate, ...] = ()
    breaks: tuple[Break, ...] = ()
    rate_limits: RateLimits | None = None

    @field_validator("errors", "breaks")
    @classmethod
    def _at_most_one_each(cls, given: Sequence[ErrorRate | Break]) -> Sequence[ErrorRate | Break]:
        if (total := sum(one.rate for one in given)) > 1 + 1e-9:
            raise ValueError(f"the rates add up to {total:g}, more than 1")
        return given

    def updated(self, other: "Conditions") -> "Conditions":
        """The fields that `other` sets, and this one's other fields."""
        own = Conditions.model_fields.keys() & other.model_fields_set
        return self.model_copy(update={name: getattr(other, name) for name in own})


class RequestPlan(Conditions):
    """The plan in the header of one request."""

    seed: Seed | None = None


class Plan(Conditions):
    """The plan of a server. The fields of a model in `models` replace those for all."""

    seed: Seed = 0
    startup_seconds: Seconds = 0
    models: dict[str, Conditions] = Field(default_factory=dict)


P = TypeVar("P", Plan, RequestPlan)


def load(path: Path) -> Plan:
    """Reads a file in TOML if its name ends in .toml, else in JSON. Raises InvalidPlan."""
    try:
        content = path.read_text("utf-8")
        given = tomllib.loads(content) if path.suffix == ".toml" else json.loads(content)
        return _validated(Plan, given)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidPlan(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from None


def _checked(path: Path | None) -> Path | None:
    if path is not None:
        load(path)
    return path


PlanFile = Annotated[Path | None, AfterValidator(_checked)]


def from_header(content: str) -> RequestPlan:
    """Raises InvalidPlan."""
    try:
        return _validated(RequestPlan, json.loads(content))
    except (ValueError, RecursionError) as error:
        raise InvalidPlan(f"{HEADER}: {error}") from None


def _validated(kind: type[P], given: Any) -> P:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        raise InvalidPlan(f"{place}: {message}" if place else message) from None
