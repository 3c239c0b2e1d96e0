"""Request bodies of Anthropic's operations."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, Tag, model_validator

from service.api.fields import (
    Joined,
    JsonSchema,
    ModelName,
    OnUnknown,
    Pace,
    RequestBody,
    SamplingFields,
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
from service.api.openai.messages import MAX_MESSAGES
from service.api.openai.tools import AUTO, MAX_TOOLS, ToolName, ToolSelection, chosen_tools, schema_of_arguments
from service.conversation import Conversation, Tool, Turn, call_turn
from service.generation.constraints.compiler import Constraint

BLOCKS = ("text", "tool_use", "tool_result", "thinking", "redacted_thinking")


class TextBlock(RequestBody):
    type: Literal["text"]
    text: str
    cache_control: Unused = None
    citations: Unused = None


Words = Annotated[Joined[TextBlock], only_types("blocks", "text")]


class ToolUseBlock(RequestBody):
    type: Literal["tool_use"]
    id: Unused = None
    name: str
    input: dict[str, Any]
    cache_control: Unused = None
    caller: Unused = None
    toolset_name: Unused = None


class ToolResultBlock(RequestBody):
    type: Literal["tool_result"]
    tool_use_id: str
    content: Words = ""
    is_error: Unused = None
    cache_control: Unused = None
    toolset_name: Unused = None


class ThinkingBlock(RequestBody):
    """What another model thought. It is not read."""

    type: Literal["thinking", "redacted_thinking"]
    thinking: Unused = None
    signature: Unused = None
    data: Unused = None
    cache_control: Unused = None


Block = Annotated[
    Annotated[TextBlock, Tag("[text]")]
    | Annotated[ToolUseBlock, Tag("[tool_use]")]
    | Annotated[ToolResultBlock, Tag("[tool_result]")]
    | Annotated[ThinkingBlock, Tag("[thinking]")]
    | Annotated[ThinkingBlock, Tag("[redacted_thinking]")],
    by_type("text"),
]


class InputMessage(RequestBody):
    role: Literal["user", "assistant", "system"]
    content: Annotated[TextOr[Annotated[list[Block], Field(fail_fast=True)]], only_types("blocks", *BLOCKS)] = Field(
        description="A text, or blocks of the types text, tool_use, tool_result and thinking."
    )

    @property
    def turns(self) -> list[Turn]:
        """The message's words and calls, and the results of earlier calls.

        Results are last, also where a text follows them: what the last turn is decides whether a tool is called again.
        """
        blocks = [TextBlock(type="text", text=self.content)] if isinstance(self.content, str) else self.content
        text = "".join(block.text for block in blocks if isinstance(block, TextBlock))
        calls = [(block.name, block.input) for block in blocks if isinstance(block, ToolUseBlock)]
        results = [Turn("tool", None, str(block.content)) for block in blocks if isinstance(block, ToolResultBlock)]
        words = "\n".join(filter(None, [text, call_turn(calls).words]))
        return [*([Turn(self.role, None, words)] if words or not results else []), *results]


class ToolDefinition(RequestBody):
    type: Literal["custom"] = "custom"
    name: ToolName
    input_schema: JsonSchema = Field(description="JSON Schema of the input, an object.")
    description: Unused = None
    allowed_callers: Unused = None
    cache_control: Unused = None
    defer_loading: Unused = None
    eager_input_streaming: Unused = None
    input_examples: Unused = None
    strict: Unused = None  # an input is always valid


class ToolChoice(RequestBody):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, description="Of the tool, if the type is tool.")
    disable_parallel_tool_use: bool | None = Field(
        None, description="false allows several calls in one answer. Otherwise there is at most one."
    )

    @property
    def chosen(self) -> ToolSelection:
        match self.type:
            case "tool":
                return "one", [self.name or ""]
            case "any":
                return "required", []
            case "auto" | "none":
                return self.type, []


class JsonFormat(RequestBody):
    type: Literal["json_schema"]
    schema_: JsonSchema = Field(alias="schema")
    name: Unused = None
    strict: Unused = None


class OutputConfig(RequestBody):
    format: JsonFormat | None = Field(None, description="The answer is JSON under a schema.")
    effort: Unused = None
    task_budget: Unused = None


class PromptFields(RequestBody):
    """What of a request the prompt depends on, and the fields that both operations ignore."""

    model: ModelName = None
    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    system: Words = Field("", description="System prompt: a text, or text blocks.")
    tools: Annotated[list[ToolDefinition], only_types("tools", "custom")] = Field(
        [], max_length=MAX_TOOLS, description="Tools with an input_schema."
    )
    tool_choice: ToolChoice | None = Field(None, description=AUTO)
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = Field(None, description="Former name of output_config.format.")
    on_unknown: OnUnknown = "skip"
    betas: Unused = None
    billing_policy: Unused = None
    compaction: Unused = None
    container: Unsupported = None
    mcp_servers: Annotated[Any, only([])] = None
    cache_control: Unused = None
    context_management: Unused = None
    speed: Unused = None
    thinking: Unused = None
    user_profile_id: Unused = None
    workspace_id: Unused = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.conversation  # noqa: B018 - raises for unknown tools
        return self

    @property
    def conversation(self) -> Conversation:
        """Raises PydanticCustomError."""
        given = [Tool(tool.name, schema_of_arguments(tool.input_schema)) for tool in self.tools]
        tools, mode = chosen_tools(given, self.tool_choice)
        system = [Turn("system", None, str(self.system))] if self.system else []
        return Conversation(
            turns=[*system, *(turn for message in self.messages for turn in message.turns)],
            continues=self.messages[-1].role == "assistant",
            format=self._format,
            format_field="output_config" if self.output_format is None else "output_format",
            tools=tools,
            tool_mode=mode,
            parallel_calls=self.tool_choice is not None and self.tool_choice.disable_parallel_tool_use is False,
        )

    @property
    def _format(self) -> Constraint | None:
        current = None if self.output_config is None else self.output_config.format
        if current is not None and self.output_format is not None:
            raise invalid("output_format", "it is the former name of output_config.format; send one of them")
        given = current or self.output_format
        return None if given is None else Constraint("json_schema", given.schema_)


EXAMPLE: dict[str, Any] = {"model": "shakespeare", "messages": [{"role": "user", "content": "Who art thou?"}]}


class CountRequest(PromptFields):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})


class MessageRequest(PromptFields, SamplingFields):
    model_config = ConfigDict(json_schema_extra={"examples": [{**EXAMPLE, "max_tokens": 100}]})

    max_tokens: int = Field(ge=1, description="Maximum number of characters to generate; a token is a character.")
    stop_sequences: Stop = Field([])
    stream: bool = False
    seed: Seed = None
    pace: Pace | None = None
    thread: dict[str, Any] | None = Field(None, description="Not supported. Anthropic's client then sends all messages.")
    diagnostics: Unused = None
    fallback_credit_token: Unused = None
    fallbacks: Unused = None
    inference_geo: Unused = None
    metadata: Unused = None
    service_tier: Unused = None
