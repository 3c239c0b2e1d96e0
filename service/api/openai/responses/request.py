"""The body of POST /v1/responses."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from service.api.fields import (
    ModelName,
    OnUnknown,
    Pace,
    RequestBody,
    Seed,
    Stop,
    TextOr,
    Unsupported,
    Unused,
    by_type,
    invalid,
    only,
    only_types,
)
from service.api.openai.compatibility import OpenAIFields
from service.api.openai.responses.answer import EchoedFields
from service.api.openai.responses.items import InputItem, turns_of
from service.api.openai.tools import (
    AUTO,
    MAX_TOOLS,
    FunctionDefinition,
    JsonObjectFormat,
    Named,
    NamedSchema,
    TextFormat,
    ToolSelection,
    chosen_tools,
)
from service.conversation import MAX_CALLS, Conversation, Tool, ToolMode, Turn
from service.generation.backend import MAX_TOP_LOGPROBS

MAX_ITEMS = 10_000
LOGPROBS = "message.output_text.logprobs"  # value of `include`


def _not_stored(_: Any) -> None:
    raise PydanticCustomError("unsupported_parameter", "this server stores no responses; send the whole conversation in input")


NotStored = Annotated[None, BeforeValidator(_not_stored), Field(description="Not supported: the server stores nothing.")]


class FlatFunctionTool(FunctionDefinition):
    type: Literal["function"] = "function"
    allowed_callers: Unused = None
    async_: Unused = Field(None, alias="async")
    defer_loading: Unused = None
    output_schema: Unused = None


class NamedTool(Named):
    type: Literal["function"] = "function"


OnlyFunctions = only_types("tools", "function")


class AllowedChoice(RequestBody):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[Annotated[NamedTool, OnlyFunctions]], Field(min_length=1, fail_fast=True)]

    @property
    def chosen(self) -> ToolSelection:
        return self.mode, [tool.name for tool in self.tools]


Choice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("[mode]")]
    | Annotated[NamedTool, Tag("[function]")]
    | Annotated[AllowedChoice, Tag("[allowed_tools]")],
    by_type("function", "mode"),
    only_types("choices", "function", "allowed_tools"),
]


class FlatJsonSchemaFormat(NamedSchema):
    type: Literal["json_schema"]


class TextConfig(RequestBody):
    format: Annotated[TextFormat | JsonObjectFormat | FlatJsonSchemaFormat, Field(discriminator="type")] = TextFormat(type="text")
    verbosity: Unused = None


class ResponsesStreamOptions(RequestBody):
    include_obfuscation: Unused = None
    include_usage: Unused = None  # the last event always has it


class IneffectiveFields(OpenAIFields):
    """Further fields that are ignored, accepted only at values that change nothing, or rejected by name."""

    access_programs: Unused = None
    background: Annotated[Any, only(False)] = None
    background_options: Unsupported = None
    context_management: Unsupported = None
    conversation: NotStored = None
    image: Unused = None
    max_tool_calls: Unused = None  # limits tools that OpenAI runs
    previous_response_id: NotStored = None
    prompt: Unsupported = None  # the id of a template that OpenAI stores
    reasoning: Unused = None
    store: bool = Field(False, description="Accepted for compatibility and ignored: the server stores nothing.")
    stream_options: ResponsesStreamOptions | None = None
    truncation: Literal["auto", "disabled"] = Field("disabled", description="Ignored: a longer input is rejected.")


class ResponsesRequest(IneffectiveFields):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "shakespeare", "input": "Who art thou?"}]})

    model: ModelName = None
    input: TextOr[Annotated[list[InputItem], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]] = Field(
        description="What the user says, or the items of a conversation."
    )
    instructions: str | None = Field(None, description="The system's message, before the input.")
    max_output_tokens: int | None = Field(
        None, ge=1, description="Maximum number of characters to generate; a token is a character. The default is 1,000."
    )
    tools: list[Annotated[FlatFunctionTool, OnlyFunctions]] = Field([], max_length=MAX_TOOLS)
    tool_choice: Choice = Field("auto", description=f"none, auto, required, or a function to call. {AUTO}")
    parallel_tool_calls: bool = Field(False, description=f"Allow up to {MAX_CALLS} calls in one answer.")
    text: TextConfig = Field(TextConfig(), description="The answer is a text, any JSON object, or JSON under a schema.")
    include: list[str] = Field([], max_length=100, description=f"{LOGPROBS} returns log-probabilities. Other values are ignored.")
    top_logprobs: int = Field(
        0,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description=f"Number of most likely characters to return at each position. Requires {LOGPROBS} in include.",
    )
    stream: bool = False
    stop: Stop = Field([])
    seed: Seed = None
    pace: Pace | None = None
    on_unknown: OnUnknown = "skip"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self._turns:
            raise invalid("input", "there is no message in it")
        self._chosen_tools  # noqa: B018 - raises for unknown names
        return self

    @property
    def echoed(self) -> dict[str, Any]:
        """The fields that the answer repeats."""
        return self.model_dump(include={*EchoedFields.model_fields}, exclude_none=True, by_alias=True)

    @property
    def logprobs(self) -> int | None:
        return self.top_logprobs if LOGPROBS in self.include else None

    def as_conversation(self) -> Conversation:
        turns, (tools, mode) = self._turns, self._chosen_tools
        return Conversation(
            turns=turns,
            continues=turns[-1].role == "assistant",
            format=self.text.format.constraint,
            format_field="text.format",
            tools=tools,
            tool_mode=mode,
            parallel_calls=self.parallel_tool_calls,
        )

    @property
    def _turns(self) -> list[Turn]:
        system = [Turn("system", None, self.instructions)] if self.instructions is not None else []
        return system + ([Turn("user", None, self.input)] if isinstance(self.input, str) else turns_of(self.input))

    @property
    def _chosen_tools(self) -> tuple[list[Tool], ToolMode]:
        """See `service.api.openai.tools.chosen_tools`."""
        return chosen_tools([tool.tool for tool in self.tools], self.tool_choice)
