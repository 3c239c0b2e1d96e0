"""Request bodies of OpenAI's operations, with the fields of vLLM and llama.cpp that clients also send."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, StrictInt, Tag, model_validator
from pydantic_core import PydanticCustomError

from service.api.fields import (
    Logprobs,
    ModelName,
    Only,
    OnUnknown,
    Pace,
    RequestBody,
    SamplingFields,
    Seed,
    Stop,
    Unsupported,
    Unused,
)
from service.generation.backend import MAX_TOP_LOGPROBS

MAX_PROMPTS, MAX_MESSAGES = 2_048, 10_000


class StreamOptions(RequestBody):
    include_usage: bool = Field(False, description="End the stream with a chunk that has `usage` and no choices.")
    continuous_usage_stats: bool = Field(False, description="Include the usage so far in every chunk. Requires include_usage.")
    include_obfuscation: Unused = None


class TextFormat(RequestBody):
    type: Annotated[Any, Only("text")]


class CompatibilityFields(SamplingFields):
    """Fields of OpenAI, vLLM and llama.cpp that are ignored, accepted only at values that change nothing, or rejected by name."""

    # OpenAI
    function_call: Annotated[Any, Only("none", "auto")] = None
    functions: Annotated[Any, Only([])] = None
    metadata: Unused = None
    modalities: Annotated[Any, Only(["text"], [])] = None
    moderation: Unsupported = None
    parallel_tool_calls: Unused = None
    prediction: Unused = None  # a hint for speed
    prompt_cache_key: Unused = None
    prompt_cache_options: Unused = None
    prompt_cache_retention: Unused = None
    reasoning_effort: Unused = None
    response_format: TextFormat | None = None
    safety_identifier: Unused = None
    service_tier: Annotated[Any, Only("auto", "default")] = None
    store: Annotated[Any, Only(False)] = None
    tool_choice: Annotated[Any, Only("none", "auto")] = None
    tools: Annotated[Any, Only([])] = None
    user: Unused = None
    verbosity: Unused = None
    web_search_options: Unsupported = None

    # vLLM; load tools send them
    add_special_tokens: Unused = None
    allowed_token_ids: Unsupported = None
    best_of: Annotated[Any, Only(1)] = None
    bad_words: Annotated[Any, Only([])] = None
    cache_salt: Unused = None
    chat_template: Unsupported = None
    chat_template_kwargs: Unused = None
    detokenize: Annotated[Any, Only(True)] = None
    documents: Annotated[Any, Only([])] = None
    early_stopping: Annotated[Any, Only(False)] = None
    include_stop_str_in_output: Annotated[Any, Only(False)] = None
    length_penalty: Annotated[Any, Only(1)] = None
    priority: Annotated[Any, Only(0)] = None
    prompt_logprobs: Unsupported = None
    request_id: Unused = None
    return_token_ids: Annotated[Any, Only(False)] = None
    return_tokens_as_token_ids: Annotated[Any, Only(False)] = None
    skip_special_tokens: Unused = None
    spaces_between_special_tokens: Unused = None
    stop_token_ids: Annotated[Any, Only([])] = None
    truncate_prompt_tokens: Unsupported = None
    use_beam_search: Annotated[Any, Only(False)] = None

    # llama.cpp
    cache_prompt: Unused = None
    mirostat: Annotated[Any, Only(0)] = None
    repeat_penalty: Annotated[Any, Only(1)] = None
    typical_p: Annotated[Any, Only(1)] = None


class CommonFields(CompatibilityFields):
    """Fields of both operations."""

    model: ModelName = None
    n: int = Field(1, ge=1, description="Number of completions of each prompt. Each uses different random numbers.")
    stop: Stop = Field([])
    seed: Seed = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] = Field(
        {}, description="Value added to the logit of each listed token. A token is the id of a character in the model's vocabulary."
    )
    min_tokens: int = Field(0, ge=0, description="Stop strings that end within the first min_tokens characters are ignored.")
    ignore_eos: bool = Field(
        False, description="Chat only: continue the reply past the end of the speaker's turn, up to max_tokens."
    )
    pace: Pace | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.continuous_usage_stats


Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[list[StrictInt], Field(min_length=1, fail_fast=True)]


def _kind(prompt: Any) -> str:
    """The form of a prompt, judged by its first item. So pydantic reports errors of that form only.

    `service.api.errors` recognizes the names of a union's branches by their brackets.
    """
    if not isinstance(prompt, list):
        return "[text]"
    return {list: "[token lists]", int: "[tokens]"}.get(type(prompt[0]) if prompt else str, "[texts]")


Prompts = Annotated[
    Annotated[Text, Tag("[text]")]
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("[texts]")]
    | Annotated[Tokens, Tag("[tokens]")]
    | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("[token lists]")],
    Discriminator(_kind),
]


class CompletionRequest(CommonFields):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "shakespeare", "prompt": "ROMEO: ", "max_tokens": 100}]})

    prompt: Prompts = Field(
        description="Text or tokens to continue, or a list of either. A token is the id of a character in the model's vocabulary."
    )
    max_tokens: int = Field(
        16,
        ge=0,
        description="Maximum number of characters to generate; a token is a character. 0 with echo and logprobs scores the prompt.",
    )
    logprobs: Logprobs = None
    echo: bool = Field(
        False, description="Begin each text with its prompt. With logprobs, the prompt's log-probabilities are returned too."
    )
    suffix: Annotated[Any, Only("")] = None
    on_unknown: OnUnknown | None = Field(
        None,
        description="How to treat characters outside the model's vocabulary, as in /generate. If omitted, each is replaced with a "
        "space, or removed if the vocabulary has no space.",
    )

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return self.prompt if several else [self.prompt]  # type: ignore[return-value]


class TextPart(RequestBody):
    type: Literal["text"]
    text: str
    cache_control: Unused = None
    prompt_cache_breakpoint: Unused = None


def _join_parts(content: str | list[TextPart] | None) -> str:
    return "".join(part.text for part in content) if isinstance(content, list) else content or ""


def _reject_other_parts(content: Any) -> Any:
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    kinds = {part["type"] for part in parts if isinstance(part.get("type"), str)}
    if others := sorted(kinds - {"text"}):
        raise PydanticCustomError("unsupported_value", "parts of type {kinds} are not supported; send text parts only",
                                  {"kinds": ", ".join(others)})  # fmt: skip
    return content


Content = Annotated[
    Annotated[str, Tag("[text]")] | Annotated[list[TextPart], Tag("[parts]")],
    Discriminator(lambda content: "[parts]" if isinstance(content, list) else "[text]"),
]


class Message(RequestBody):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[Content, BeforeValidator(_reject_other_parts), AfterValidator(_join_parts)] = ""
    name: str | None = Field(None, description="Name of the speaker. The model reads it instead of the role.")
    tool_call_id: Unused = None
    tool_calls: Annotated[Any, Only([])] = None
    function_call: Unsupported = None
    annotations: Annotated[Any, Only([])] = None
    audio: Unsupported = None
    refusal: Unused = None
    reasoning_content: Unused = None


class ChatRequest(CommonFields):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "shakespeare", "messages": [{"role": "user", "content": "Who art thou?"}]}]}
    )

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_tokens: int | None = Field(
        None, ge=1, description="Maximum number of characters to generate; a token is a character. The default is 1,000."
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, description="The newer name of max_tokens. It takes precedence if both are sent."
    )
    logprobs: bool = Field(False, description="Return the log-probability of each generated character.")
    top_logprobs: int = Field(
        0,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Number of most likely characters to return at each position. Requires logprobs.",
    )
    continue_final_message: bool | None = Field(
        None,
        description="Continue the last message instead of starting a reply. If omitted, it is continued if its role is assistant.",
    )
    add_generation_prompt: bool | None = Field(
        None, description="Start a reply instead of continuing the last message: the opposite of continue_final_message."
    )
    audio: Unsupported = None
    echo: Annotated[Any, Only(False)] = None
    on_unknown: OnUnknown = "skip"

    @model_validator(mode="after")
    def _check_contradiction(self) -> Self:
        if self.continue_final_message is not None and self.continue_final_message == self.add_generation_prompt:
            raise PydanticCustomError(
                "invalid_value", "continue_final_message and add_generation_prompt are opposites; send only one of them"
            )
        return self

    @property
    def continues(self) -> bool:
        """The last message is continued."""
        if self.continue_final_message is not None:
            return self.continue_final_message
        if self.add_generation_prompt is not None:
            return not self.add_generation_prompt
        return self.messages[-1].role == "assistant"
