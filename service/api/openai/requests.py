"""Request bodies of OpenAI's operations, with the fields of vLLM and llama.cpp that clients also send."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, StrictInt, Tag, model_validator

from service.api.fields import (
    Choices,
    JsonSchema,
    Logprobs,
    ModelName,
    OnUnknown,
    Pace,
    Regex,
    RequestBody,
    Seed,
    Stop,
    Unsupported,
    Unused,
    invalid,
    only,
    only_constraint,
    only_types,
)
from service.api.openai.answers import UsageChunks
from service.api.openai.compatibility import CompatibilityFields
from service.api.openai.messages import ChatMessages
from service.api.openai.tools import (
    AUTO,
    MAX_TOOLS,
    FunctionDefinition,
    FunctionTool,
    Named,
    ResponseFormat,
    StructuredOutputs,
    ToolChoice,
    chosen_tools,
)
from service.conversation import MAX_CALLS, Conversation, Tool, ToolMode
from service.generation.backend import MAX_TOP_LOGPROBS
from service.generation.constraints.compiler import Constraint

MAX_PROMPTS = 2_048


class StreamOptions(RequestBody):
    include_usage: bool = Field(False, description="End the stream with a chunk that has `usage` and no choices.")
    continuous_usage_stats: bool = Field(False, description="Include the usage so far in every chunk. Requires include_usage.")
    include_obfuscation: Unused = None


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

    response_format: ResponseFormat | None = Field(
        None, description="The answer is a text, any JSON object, or JSON under a schema."
    )
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | str | None = Field(None, description="vLLM's earlier name of structured_outputs.json.")
    guided_regex: Regex | None = None
    guided_choice: Choices | None = None
    guided_grammar: Unsupported = None
    guided_decoding_backend: Unused = None
    guided_whitespace_pattern: Unused = None

    @model_validator(mode="after")
    def _check_constraint(self) -> Self:
        self.constraint  # noqa: B018 - raises for several
        return self

    @property
    def constraint(self) -> Constraint | None:
        """What the answer is restricted to. Raises PydanticCustomError."""
        guided = only_constraint(
            regex=self.guided_regex,
            choices=self.guided_choice,
            json_schema=self.guided_json,
            names={"regex": "guided_regex", "choices": "guided_choice", "json_schema": "guided_json"},
        )
        found = [one.constraint for one in (self.response_format, self.structured_outputs) if one is not None] + [guided]
        given = [constraint for constraint in found if constraint is not None]
        if len(given) > 1:
            raise invalid(self.constraint_field, "another field restricts the answer too; send one of them")
        return given[0] if given else None

    @property
    def constraint_field(self) -> str:
        """The field that the constraint comes from."""
        if self.response_format is not None and self.response_format.constraint is not None:
            return "response_format"
        if self.structured_outputs is not None:
            return "structured_outputs"
        return next((name for name in ("guided_regex", "guided_choice") if getattr(self, name) is not None), "guided_json")

    @property
    def usage(self) -> UsageChunks:
        """Which chunks of a stream hold the usage."""
        if self.stream_options is None or not self.stream_options.include_usage:
            return "none"
        return "always" if self.stream_options.continuous_usage_stats else "last"


Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[list[StrictInt], Field(min_length=1, fail_fast=True)]


def _kind(prompt: Any) -> str:
    """The form of a prompt, judged by its first item. See `service.api.fields.by_type` for the brackets."""
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


def listed(prompts: str | list[str] | list[int] | list[list[int]]) -> list[str] | list[list[int]]:
    """A list of prompts, also for one."""
    several = isinstance(prompts, list) and not isinstance(prompts[0], int)
    return prompts if several else [prompts]  # type: ignore[return-value]


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
    suffix: Annotated[Any, only("")] = None
    on_unknown: OnUnknown | None = Field(
        None,
        description="How to treat characters outside the model's vocabulary, as in /generate. If omitted, each is replaced with a "
        "space, or removed if the vocabulary has no space.",
    )

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        return listed(self.prompt)


FunctionCallChoice = Annotated[
    Annotated[Literal["none", "auto"], Tag("[mode]")] | Annotated[Named, Tag("[function]")],
    Discriminator(lambda choice: "[mode]" if isinstance(choice, str) else "[function]"),
]


class ChatRequest(ChatMessages, CommonFields):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "shakespeare", "messages": [{"role": "user", "content": "Who art thou?"}]}]}
    )

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
    tools: list[Annotated[FunctionTool, only_types("tools", "function")]] = Field([], max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = Field(None, description=f"none, auto, required, or a function to call. {AUTO}")
    parallel_tool_calls: bool = Field(False, description=f"Allow up to {MAX_CALLS} calls in one answer.")
    functions: list[FunctionDefinition] = Field([], max_length=MAX_TOOLS, description="Former name of tools.")
    function_call: FunctionCallChoice | None = Field(None, description="Former name of tool_choice.")
    audio: Unsupported = None
    echo: Annotated[Any, only(False)] = None
    on_unknown: OnUnknown = "skip"

    @model_validator(mode="after")
    def _check_tools(self) -> Self:
        if self.tools and self.functions:
            raise invalid("functions", "it is the former name of tools; send one of them")
        self.chosen_tools  # noqa: B018 - raises for unknown names
        return self

    @property
    def is_legacy(self) -> bool:
        """The answer uses the former names of tools."""
        return bool(self.functions)

    @property
    def chosen_tools(self) -> tuple[list[Tool], ToolMode]:
        """See `service.api.openai.tools.chosen_tools`."""
        functions = self.functions or [tool.function for tool in self.tools]
        return chosen_tools([function.tool for function in functions], self.function_call if self.functions else self.tool_choice)

    @property
    def conversation(self) -> Conversation:
        tools, mode = self.chosen_tools
        return Conversation(
            turns=self.turns,
            continues=self.continues,
            format=self.constraint,
            format_field=self.constraint_field,
            tools=tools,
            tool_mode=mode,
            parallel_calls=self.parallel_tool_calls and not self.functions,
        )
