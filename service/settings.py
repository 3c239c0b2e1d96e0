"""What a server is asked to be: Settings, from flags, SERVICE_* variables and defaults."""

import codecs
import ipaddress
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SHORTEST_KEY = 16  # characters; of a secret too
REMOVED = {
    "decoder": "it is --backend now",
    "precision": "the native and reference backends compute exactly, with int8 weights",
}
"""Options of earlier releases, and what became of them."""
LONGEST_RATE = 360 * 24 * 3600  # seconds: a year, as `limits` has it


class Settings(BaseSettings):
    """Serves the newest version of every model in a models folder. (`python -m service generate` continues a text here.)"""

    model_config = SettingsConfigDict(
        env_prefix="SERVICE_",
        frozen=True,
        extra="forbid",
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_implicit_flags="toggle",  # --tracing, without a value
        protected_namespaces=(),
        hide_input_in_errors=True,  # it may be a key
        env_ignore_empty=True,  # an empty variable is not given: Compose passes one for each that is not set
    )

    host: str = Field("127.0.0.1", description="address to listen on; :: takes IPv4 too where the system can")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    uds: Path | None = Field(None, description="Unix socket to listen on instead: a path; needs no keys, as it is of this machine")
    api_keys: SecretStr = Field(
        SecretStr(""), description="keys, one of which a request must have, separated by commas or blanks; better in a variable"
    )
    api_keys_file: Path | None = Field(
        None, description="a file with more of them, one in each line; # at its start or after a blank begins a comment"
    )
    without_keys: bool = Field(
        False, description="listen beyond loopback without API keys: anyone who can reach the port may use it"
    )
    rate_limit: str = Field("", description="requests that each key (without keys: each address) may send: 10/second;300/minute")
    max_open: int = Field(0, ge=0, description="requests that each may have open at a time, streams among them; 0: any number")
    trusted_proxies: str = Field(
        "",
        description="proxies whose X-Forwarded-For and X-Forwarded-Proto tell the client's address and scheme: addresses or "
        "networks, separated by commas or blanks; * for all",
    )
    allowed_hosts: str = Field(
        "",
        description="names by which clients reach a server without API keys, besides localhost and its address: example.org or "
        "*.example.org, separated by commas or blanks; * for all",
    )
    cors_origins: str = Field(
        "", description="origins whose pages may call, as https://example.org, separated by commas or blanks; * for all"
    )
    models_dir: Path = Field(Path("models"), description="where published versions are")
    watch: float = Field(2, ge=0, allow_inf_nan=False, description="seconds between looks for new versions there; 0: only at start")
    default_model: str = Field("shakespeare", description="the model of requests that name none, unless there is only one")
    backend: Literal["auto", "native", "reference", "tensorflow"] = Field(
        "auto",
        description="what runs the network. native: C. reference: NumPy, slower. Both give the same text on every machine. "
        "tensorflow: for GPUs. auto: tensorflow where it finds a GPU, else native",
    )
    slots: int = Field(64, ge=1, description="generations that run at the same time, for each model")
    queue_limit: int = Field(1024, ge=0, description="generations that may wait for a slot; more are answered 429")
    chunk: int = Field(512, ge=1, description="most characters that one call of the backend adds to a stream")
    call_ms: float = Field(
        20,
        gt=0,
        allow_inf_nan=False,
        description="about how long a call may take; a new request waits for its end",
    )
    event_ms: float = Field(
        30,
        ge=0,
        allow_inf_nan=False,
        description="about how often a stream gets its characters, and 0.5 ms for each stream that runs; 0: every call",
    )
    prompt_cache_mb: float = Field(
        16, ge=0, allow_inf_nan=False, description="for states of start strings that may come again, for each model; 0 keeps none"
    )
    unknown_fields: Literal["refuse", "ignore"] = Field(
        "refuse",
        description="what to do with body fields that the service does not know; ignored ones are named in X-Ignored-Fields",
    )
    aliases: str = Field("", description="other names of models, as gpt-4o-mini=shakespeare, separated by commas or blanks")
    any_model: bool = Field(False, description="a model name that is not served means the default model")
    secret: SecretStr = Field(
        default_factory=lambda: SecretStr(secrets.token_urlsafe(32)),
        description="what state tokens are signed with: the same for all replicas; drawn at start if not given",
    )
    max_body: int = Field(2_000_000, ge=1_000, description="longest body of a request, in bytes; longer ones are answered 413")
    max_start_string: int = Field(10_000, ge=1, description="longest start string, in characters")
    max_num_generate: int = Field(100_000, ge=1, description="most characters one request may ask for")
    max_score: int = Field(100_000, ge=1, description="longest text to score, in characters")
    max_logprobs: int = Field(100_000, ge=1, description="most log-probabilities in one answer, those of the likeliest counted")
    max_choices: int = Field(128, ge=1, description="most continuations one request to /v1 may ask for, over all its prompts")
    keep_alive: float = Field(
        75,
        gt=0,
        allow_inf_nan=False,
        description="seconds that a connection may be idle after an answer; longer than a proxy keeps it",
    )
    request_timeout: float = Field(
        30, gt=0, allow_inf_nan=False, description="seconds a request may take to arrive, and an answer's bytes to be taken"
    )
    shutdown_delay: float = Field(
        1, ge=0, allow_inf_nan=False, description="seconds between SIGTERM, when /readyz turns 503, and taking no more requests"
    )
    shutdown_grace: float = Field(10, ge=0, allow_inf_nan=False, description="seconds that open streams have to end then")
    log_format: Literal["auto", "plain", "json"] = Field(
        "auto", description="of the log, on stderr; auto: plain on a terminal, else a JSON object a line"
    )
    log_prompts: bool = Field(False, description="start strings are logged too")
    tracing: bool = Field(
        False, description="sends OpenTelemetry's traces where OTEL_EXPORTER_OTLP_ENDPOINT says; its other variables hold too"
    )

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, given: str) -> str:
        if given:
            from limits import parse_many  # takes a tenth of a second, which few servers need

            try:
                rates = parse_many(given)
            except ValueError:
                raise ValueError(f"{given!r} is no rate; one is 10/second or 300/minute, several are separated by ;") from None
            # `limits` takes 0 seconds for one.
            if re.search(r"(?<!\d)0+(?!\d)", given) or any(rate.get_expiry() > LONGEST_RATE for rate in rates):
                raise ValueError(f"{given!r} is no rate that can be; one is of at least 1 request in 1 second to 1 year")
        return given

    @field_validator("secret")
    @classmethod
    def _is_long(cls, given: SecretStr) -> SecretStr:
        if len(given.get_secret_value()) < SHORTEST_KEY:
            raise ValueError(f"a secret needs at least {SHORTEST_KEY} characters; without one, one is drawn at start")
        return given

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, given: str) -> str:
        for host in _listed(given):
            if not re.fullmatch(r"\*|(\*\.)?[^*:/\[\]]+|\[?[0-9A-Fa-f:.]+\]?", host):
                raise ValueError(f"{host!r} is no host; one is example.org or *.example.org, without scheme, port and path")
        return given

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, given: str) -> str:
        for proxy in _listed(given):
            try:
                if proxy != "*":
                    ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError(f"{proxy!r} is no address or network; one is 192.0.2.1 or 192.0.2.0/24") from None
        return given

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, given: str) -> str:
        for origin in _listed(given):
            if not re.fullmatch(r"\*|https?://[^/\s]+", origin):
                raise ValueError(f"{origin!r} is no origin; one is https://example.org, with no path")
        return given

    @field_validator("aliases")
    @classmethod
    def _are_pairs(cls, given: str) -> str:
        for pair in _listed(given):
            if not re.fullmatch(r"[^=]+=[^=]+", pair):
                raise ValueError(f"{pair!r} is no alias; one is gpt-4o-mini=shakespeare")
        return given

    @model_validator(mode="after")
    def _keys_can_be_sent(self) -> Self:
        for key in _listed(self.api_keys.get_secret_value()):
            _check_key(key)
        if self.api_keys_file is not None and not self.keys:
            raise ValueError(f"{self.api_keys_file} holds no API key")
        return self

    @cached_property
    def keys(self) -> list[str]:
        """The API keys; none where everybody may ask. As they were at start: new ones are taken by starting again."""
        keys = _listed(self.api_keys.get_secret_value())
        if self.api_keys_file is not None:
            try:
                content = self.api_keys_file.read_bytes().removeprefix(codecs.BOM_UTF8)
            except OSError as error:
                raise ValueError(f"{self.api_keys_file}: {error}") from error
            for number, line in enumerate(content.splitlines(), 1):
                if key := re.sub(rb"(^|\s)#.*", b"", line).strip().decode("latin-1"):
                    _check_key(key, f"{self.api_keys_file}, line {number}: ")
                    keys.append(key)
        return keys

    @property
    def model_aliases(self) -> dict[str, str]:
        """Models' names by their other names."""
        return dict(pair.split("=", 1) for pair in _listed(self.aliases))

    @property
    def proxies(self) -> list[str]:
        """Who is believed about the client; ["*"]: everybody."""
        proxies = _listed(self.trusted_proxies)
        return ["*"] if "*" in proxies else proxies

    @property
    def origins(self) -> list[str]:
        """Whose pages may call."""
        return _listed(self.cors_origins)

    @property
    def hosts(self) -> list[str]:
        """The names in Host headers that are answered; ["*"]: all.

        With API keys all are, unless some are named: a foreign page has no key. Nor does a browser reach a Unix socket.
        """
        named = _listed(self.allowed_hosts)
        return [self.host, *named] if named or not (self.keys or self.uds) else ["*"]

    @property
    def on_any_address(self) -> bool:
        """`host` stands for every address of the machine."""
        return self.host in ("0.0.0.0", "::")  # noqa: S104 - nothing is bound here

    @property
    def listens_on(self) -> str:
        """`host`; but without keys only this machine is listened to, unless that is said to be meant."""
        return self.host if self.keys or self.without_keys or _is_loopback(self.host) else "127.0.0.1"


def check_removed(arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    """Raises ValueError, with what became of it, if an option of an earlier release is given."""
    for name, news in REMOVED.items():
        if any(argument == f"--{name}" or argument.startswith(f"--{name}=") for argument in arguments):
            raise ValueError(f"--{name} was removed: {news}")
        if variables.get(f"SERVICE_{name.upper()}"):
            raise ValueError(f"SERVICE_{name.upper()} was removed: {news}")


def _check_key(key: str, place: str = "") -> None:
    if len(key) < SHORTEST_KEY or not re.fullmatch(r"[!-+\--~]+", key):
        raise ValueError(f"{place}an API key needs at least {SHORTEST_KEY} characters, all of ASCII and none a blank or a comma")


def _listed(given: str) -> list[str]:
    return [part for part in re.split(r"[\s,]+", given) if part]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
