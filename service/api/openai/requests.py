"""The request bodies of OpenAI's operations, and fields of vLLM and llama.cpp that its clients send."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, StrictInt, Tag, model_validator
from pydantic_core import PydanticCustomError

from service.api.fields import (
    Logprobs,
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
    include_usage: bool = Field(False, description="a last chunk without choices has the usage")
    continuous_usage_stats: bool = Field(False, description="every chunk has the usage so far")
    include_obfuscation: Unused = None


class TextFormat(RequestBody):
    type: Annotated[Any, Only("text")]


class Unneeded(SamplingFields):
    """Fields of OpenAI, vLLM and llama.cpp that change nothing here, or are accepted at the values that change nothing."""

    # OpenAI's
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

    # vLLM's, which load tools send
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

    # llama.cpp's
    cache_prompt: Unused = None
    mirostat: Annotated[Any, Only(0)] = None
    repeat_penalty: Annotated[Any, Only(1)] = None
    typical_p: Annotated[Any, Only(1)] = None


class CompletionParams(Unneeded):
    """The fields that both operations have."""

    model: str | None = Field(None, description="a model's name; the default one when not given")
    n: int = Field(1, ge=1, description="continuations of each prompt; each has random numbers of its own")
    stop: Stop = Field([])
    seed: Seed = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] = Field(
        {}, description="added to the logits of tokens, which are ids of the model's characters"
    )
    min_tokens: int = Field(0, ge=0, description="a stop string that ends within so many characters does not end the text")
    ignore_eos: bool = Field(False, description="a chat's reply goes on when the speaker's turn ends, up to the most characters")
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
    """Which of the four forms a prompt has, by its first item, so that an error is about that form only.

    Named with brackets, as pydantic names a union's branches: see `service.api.errors`.
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


class CompletionRequest(CompletionParams):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "shakespeare", "prompt": "ROMEO: ", "max_tokens": 100}]})

    prompt: Prompts = Field(description="the text to continue, or its tokens (ids of the model's characters), or several of either")
    max_tokens: int = Field(16, ge=0, description="characters to generate: a token is a character; 0 with echo scores the prompt")
    logprobs: Logprobs = Field(None, description="log-probabilities, and those of this many of the likeliest")
    echo: bool = Field(False, description="the text begins with the prompt")
    suffix: Annotated[Any, Only("")] = None
    on_unknown: OnUnknown | None = Field(
        None,
        description="not given: replaced by spaces, or left out where the model knows no space; X-Unknown-Characters counts them",
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


def _joined(content: str | list[TextPart] | None) -> str:
    """Content as a list of text parts is their text."""
    return "".join(part.text for part in content) if isinstance(content, list) else content or ""


def _only_text(content: Any) -> Any:
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    kinds = {part["type"] for part in parts if isinstance(part.get("type"), str)}
    if others := sorted(kinds - {"text"}):
        raise PydanticCustomError("unsupported_value", "parts of type {kinds} are not supported: send text parts only",
                                  {"kinds": ", ".join(others)})  # fmt: skip
    return content


Content = Annotated[
    Annotated[str, Tag("[text]")] | Annotated[list[TextPart], Tag("[parts]")],
    Discriminator(lambda content: "[parts]" if isinstance(content, list) else "[text]"),
]


class Message(RequestBody):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[Content, BeforeValidator(_only_text), AfterValidator(_joined)] = ""
    name: str | None = Field(None, description="the speaker's name, instead of the role's")
    tool_call_id: Unused = None
    tool_calls: Annotated[Any, Only([])] = None
    function_call: Unsupported = None
    annotations: Annotated[Any, Only([])] = None
    audio: Unsupported = None
    refusal: Unused = None
    reasoning_content: Unused = None


class ChatRequest(CompletionParams):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "shakespeare", "messages": [{"role": "user", "content": "Who art thou?"}]}]}
    )

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_tokens: int | None = Field(None, ge=1, description="most characters to generate: a token is a character")
    max_completion_tokens: int | None = Field(None, ge=1, description="the same by its newer name")
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_TOP_LOGPROBS, description="this many of the likeliest characters, with logprobs")
    continue_final_message: bool | None = Field(
        None, description="continue the last message instead of beginning a reply; not given: if it is the assistant's"
    )
    add_generation_prompt: bool | None = Field(None, description="the opposite of continue_final_message")
    audio: Unsupported = None
    echo: Annotated[Any, Only(False)] = None
    on_unknown: OnUnknown = "skip"

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.continue_final_message is not None and self.continue_final_message == self.add_generation_prompt:
            raise PydanticCustomError(
                "invalid_value", "continue_final_message and add_generation_prompt are opposites: send one of them"
            )
        return self

    @property
    def continues(self) -> bool:
        """The text goes on within the last message."""
        if self.continue_final_message is not None:
            return self.continue_final_message
        if self.add_generation_prompt is not None:
            return not self.add_generation_prompt
        return self.messages[-1].role == "assistant"
