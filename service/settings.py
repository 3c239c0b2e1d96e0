"""Settings: the options of `python -m service`, from flags, SERVICE_* variables and defaults."""

import codecs
import ipaddress
import re
import secrets
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.fault_plan import PlanFile
from service.included import default_models_dir
from service.listening import is_loopback
from trainer.program import program

MIN_KEY = 16  # characters; also of a secret
MAX_PERIOD = 360 * 24 * 3600  # seconds; the length of a year in `limits`

FORMS = {  # of the parts of options that are lists, and how an error describes them
    "allowed_hosts": (
        r"\*|(\*\.)?[^*:/\[\]]+|\[?[0-9A-Fa-f:.]+\]?",
        "a host name: write example.org or *.example.org, without scheme, port and path",
    ),
    "cors_origins": (r"\*|https?://[^/\s]+", "an origin: write for example https://example.org, without a path"),
    "aliases": (r"[^=]+=[^=]+", "an alias: write for example gpt-4o-mini=shakespeare"),
}

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AtLeastOne = Annotated[int, Field(ge=1)]


def random_secret() -> SecretStr:
    return SecretStr(secrets.token_urlsafe(32))


class Settings(BaseSettings):
    """Serve the newest version of every model in a models folder. `generate` as the first argument continues a text instead."""

    model_config = SettingsConfigDict(
        env_prefix="SERVICE_",
        frozen=True,
        extra="forbid",
        cli_prog_name=program("serve"),
        cli_kebab_case=True,
        cli_implicit_flags="toggle",  # --tracing needs no value
        cli_hide_none_type=True,
        cli_parse_none_str="none",  # what --help shows of an option without a value
        protected_namespaces=(),
        hide_input_in_errors=True,  # the input may hold a key
        env_ignore_empty=True,  # Compose passes an empty variable for each that is not set
    )

    host: str = Field("127.0.0.1", description="address to listen on; :: also accepts IPv4 where the system supports that")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 chooses a free port")
    uds: Path | None = Field(
        None, description="path of a Unix socket to listen on instead of host and port; no API keys are needed for it"
    )
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="API keys of at least 16 characters, separated by commas or spaces; each request must have one of them. Set "
        "them in the environment: other users can see a command line",
    )
    api_keys_file: Path | None = Field(
        None, description="file of further API keys, one on each line; # at the start of a line or after a space begins a comment"
    )
    without_keys: bool = Field(
        False,
        description="listen on other addresses than loopback without API keys; anyone who can reach the port may send requests",
    )
    rate_limit: str = Field(
        "", description="most requests per API key, or per client address without keys; for example 10/second;300/minute"
    )
    max_open: int = Field(
        0,
        ge=0,
        description="most concurrent requests per API key, or per client address without keys, including streams; 0: no limit",
    )
    trusted_proxies: str = Field(
        "",
        description="addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted, separated by commas "
        "or spaces; * for all",
    )
    allowed_hosts: str = Field(
        "",
        description="host names of requests that are accepted, in addition to localhost and the server's address: example.org or "
        "*.example.org, separated by commas or spaces; * for all, which is the default with API keys",
    )
    cors_origins: str = Field(
        "",
        description="origins whose web pages may call the service, such as https://example.org, separated by commas or spaces; "
        "* for all",
    )
    models_dir: Path = Field(
        default_factory=default_models_dir,
        description="folder of the published versions; without the option and without a folder `models`, the included model",
    )
    watch: NonNegative = Field(2, description="seconds between checks for new versions; 0 checks only when the service starts")
    default_model: str = Field(
        "shakespeare", description="model of requests that name none; if only one model is loaded, that one is used instead"
    )
    backend: Literal["auto", "native", "reference", "cuda"] = Field(
        "auto",
        description="implementation of the network. native: C. reference: NumPy, slower. cuda: for NVIDIA's GPUs. All three "
        "generate the same text on every machine. auto: cuda if there is a GPU and its packages are installed, else native, or "
        "reference if the C code cannot be compiled",
    )
    slots: AtLeastOne = Field(64, description="most requests of a model that run at the same time")
    queue_limit: int = Field(1024, ge=0, description="most requests of a model that wait for a slot; more get 429")
    chunk: AtLeastOne = Field(512, description="most characters that one iteration of the engine adds to a stream")
    call_ms: Positive = Field(
        14,
        description="target duration of an iteration of the engine, in milliseconds; a new request waits for its end",
    )
    event_ms: NonNegative = Field(
        30,
        description="target time between two events of a stream, in milliseconds, plus 0.5 ms for each running stream; 0 sends an "
        "event after every iteration",
    )
    prompt_cache_mb: NonNegative = Field(16, description="size of each model's prompt cache, in megabytes; 0 disables it")
    unknown_fields: Literal["refuse", "ignore"] = Field(
        "refuse", description="what to do with unknown fields of a request; the response header X-Ignored-Fields names ignored ones"
    )
    aliases: str = Field("", description="further names of models, such as gpt-4o-mini=shakespeare, separated by commas or spaces")
    any_model: bool = Field(False, description="use the default model for requests that name an unknown model")
    auto_tools: str = Field(
        "text",
        pattern=r"^(text|call)$",
        description="how to answer a chat with tools whose tool_choice is auto. call: a user's message is answered with a call, "
        "the result of a call with a text. The request header X-Folio-Tools overrides this: text, call or call NAME",
    )
    seed: int | None = Field(
        None, ge=0, le=2**64 - 1, description="seed of requests that have none; by default each gets a random one"
    )
    metrics_prefix: str = Field(
        "folio_",
        pattern="^[a-zA-Z_:][a-zA-Z0-9_:]*$",
        description="beginning of the names of metrics. With vllm: they are vLLM's own names, as load tools, autoscalers and "
        "inference gateways read them; the fraction of used slots is vllm:kv_cache_usage_perc",
    )
    faults: PlanFile = Field(None, description="JSON or TOML file with a plan of delays and faults for tests; /healthz shows it")
    fault_header: bool = Field(False, description="accept a plan of delays and faults in a request's header X-Folio-Faults")
    secret: SecretStr = Field(
        default_factory=random_secret,
        description="secret that signs state tokens, at least 16 characters; all replicas need the same one",
    )
    max_body: int = Field(2_000_000, ge=1_000, description="longest body of a request, in bytes; longer ones are answered with 413")
    max_start_string: AtLeastOne = Field(10_000, description="longest start string, in characters")
    max_num_generate: AtLeastOne = Field(100_000, description="most characters that a request may generate")
    max_score: AtLeastOne = Field(100_000, description="longest text to score, in characters")
    max_logprobs: AtLeastOne = Field(
        100_000, description="most log-probabilities in one response, including those of the alternatives"
    )
    max_choices: AtLeastOne = Field(128, description="most choices of one request to /v1, over all its prompts")
    keep_alive: Positive = Field(
        75, description="seconds after which an idle connection is closed; choose more than the idle timeout of a proxy"
    )
    request_timeout: Positive = Field(
        30,
        description="seconds in which a request must arrive, and in which a client must read something of its response",
    )
    shutdown_delay: NonNegative = Field(
        1, description="seconds after SIGTERM during which requests are still accepted; /readyz already answers 503"
    )
    shutdown_grace: NonNegative = Field(10, description="seconds that open streams have to finish after --shutdown-delay")
    log_format: Literal["auto", "plain", "json"] = Field(
        "auto", description="format of the log on stderr; auto: plain on a terminal, else one JSON object per line"
    )
    log_prompts: bool = Field(False, description="log start strings")
    tracing: bool = Field(
        False, description="send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT; the other OTEL_* variables apply too"
    )

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, given: str) -> str:
        if given:
            from limits import parse_many  # the import takes 0.1 s, and few servers need it

            try:
                rates = parse_many(given)
            except ValueError:
                raise ValueError(f"{given!r} is not a rate: write for example 10/second or 10/second;300/minute") from None
            # `limits` reads 0 seconds as 1 second.
            if re.search(r"(?<!\d)0+(?!\d)", given) or any(rate.get_expiry() > MAX_PERIOD for rate in rates):
                raise ValueError(f"{given!r} is not a valid rate: it needs at least 1 request in 1 second to 1 year")
        return given

    @field_validator("secret")
    @classmethod
    def _is_long(cls, given: SecretStr) -> SecretStr:
        if len(given.get_secret_value()) < MIN_KEY:
            raise ValueError(f"a secret needs at least {MIN_KEY} characters; without the option it is random")
        return given

    @field_validator(*FORMS)
    @classmethod
    def _have_the_form(cls, given: str, info: ValidationInfo) -> str:
        form, expected = FORMS[str(info.field_name)]
        for part in _listed(given):
            if not re.fullmatch(form, part):
                raise ValueError(f"{part!r} is not {expected}")
        return given

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, given: str) -> str:
        for proxy in _listed(given):
            try:
                if proxy != "*":
                    ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError(f"{proxy!r} is not an address or network: write for example 192.0.2.1 or 192.0.2.0/24") from None
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
        """The API keys. Empty: anyone may send requests. The file is read once, so new keys need a restart."""
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
        """The names of models by their aliases."""
        return dict(pair.split("=", 1) for pair in _listed(self.aliases))

    @property
    def proxies(self) -> list[str]:
        """The addresses of trusted proxies. ["*"]: all."""
        proxies = _listed(self.trusted_proxies)
        return ["*"] if "*" in proxies else proxies

    @property
    def origins(self) -> list[str]:
        """The allowed CORS origins."""
        return _listed(self.cors_origins)

    @property
    def hosts(self) -> list[str]:
        """The accepted names in Host headers. ["*"]: all.

        All names are accepted with API keys, because a foreign page has no key, and on a Unix socket, which no browser can reach.
        Listing names in `allowed_hosts` restricts them there too.
        """
        named = _listed(self.allowed_hosts)
        return [self.host, *named] if named or not (self.keys or self.uds) else ["*"]

    @property
    def on_any_address(self) -> bool:
        """Whether `host` means every address of the machine."""
        return self.host in ("0.0.0.0", "::")  # noqa: S104 - nothing is bound here

    @property
    def listens_on(self) -> str:
        """The address to listen on: `host`, but loopback without API keys unless `without_keys` is set."""
        return self.host if self.keys or self.without_keys or is_loopback(self.host) else "127.0.0.1"


def settings_here(models_dir: Path | str | None) -> Settings:
    """The settings of a server that is started here, with this models folder if one is given. Raises ValueError."""
    try:
        return Settings.model_validate({} if models_dir is None else {"models_dir": models_dir})
    except ValidationError as error:
        faults = [(fault["loc"], fault["msg"].removeprefix("Value error, ")) for fault in error.errors()]
        said = [f"SERVICE_{str(place[0]).upper()}: {message}" if place else message for place, message in faults]
        raise ValueError("; ".join(said)) from error


def _check_key(key: str, place: str = "") -> None:
    if len(key) < MIN_KEY or not re.fullmatch(r"[!-+\--~]+", key):
        raise ValueError(f"{place}an API key needs at least {MIN_KEY} characters, all of them ASCII, without spaces and commas")


def _listed(given: str) -> list[str]:
    return [part for part in re.split(r"[\s,]+", given) if part]
