"""What a server is asked to be: Settings, from flags, SERVICE_* variables and defaults."""

import secrets
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Serves the newest version of every model in a models folder. (`python -m service generate` continues a text here.)"""

    model_config = SettingsConfigDict(
        env_prefix="SERVICE_",
        frozen=True,
        extra="forbid",
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        protected_namespaces=(),
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    models_dir: Path = Field(Path("models"), description="where published versions are")
    watch: float = Field(2, ge=0, allow_inf_nan=False, description="seconds between looks for new versions there; 0: only at start")
    default_model: str = Field("shakespeare", description="the model of requests that name none, unless there is only one")
    decoder: Literal["auto", "openvino", "tensorflow"] = Field(
        "auto", description="what runs the network; auto: tensorflow where it sees a GPU, else openvino"
    )
    precision: Literal["auto", "f32", "bf16", "int8"] = Field(
        "auto", description="what the network computes in; auto: bf16 where the CPU has it, else f32; int8 rounds its kernels"
    )
    slots: int = Field(64, ge=1, description="generations that run at the same time, for each model")
    queue_limit: int = Field(512, ge=0, description="generations that may wait for a slot; more are answered 429")
    chunk: int = Field(64, ge=1, description="most characters that one call of the decoder adds to a stream")
    call_ms: float = Field(
        30, gt=0, allow_inf_nan=False, description="about how long a call may take, so how often streams get their characters"
    )
    prompt_cache_mb: float = Field(
        16, ge=0, allow_inf_nan=False, description="for states of start strings that may come again, for each model; 0 keeps none"
    )
    secret: SecretStr = Field(
        default_factory=lambda: SecretStr(secrets.token_urlsafe(32)),
        min_length=16,
        description="what state tokens are signed with: the same for all replicas; drawn at start if not given",
    )
    max_body: int = Field(2_000_000, ge=1_000, description="longest body of a request, in bytes; longer ones are answered 413")
    max_start_string: int = Field(10_000, ge=1, description="longest start string, in characters")
    max_num_generate: int = Field(100_000, ge=1, description="most characters one request may ask for")
    max_score: int = Field(100_000, ge=1, description="longest text to score, in characters")
    max_logprobs: int = Field(100_000, ge=1, description="most log-probabilities in one answer, those of the likeliest counted")
    max_choices: int = Field(128, ge=1, description="most continuations one request to /v1 may ask for, over all its prompts")
    shutdown_grace: float = Field(
        10, ge=0, allow_inf_nan=False, description="seconds that open streams have to end when the server is told to stop"
    )
