"""Request bodies of Ollama's operations."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AliasChoices, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from service.api.fields import (
    JsonSchema,
    ModelName,
    OnUnknown,
    Pace,
    RequestBody,
    SamplingFields,
    Seed,
    Stop,
    Unused,
    invalid,
    only,
)
from service.api.openai.messages import MAX_MESSAGES
from service.api.openai.tools import MAX_TOOLS, FunctionTool
from service.conversation import Conversation, Turn, call_turn
from service.generation.backend import MAX_TOP_LOGPROBS
from service.generation.constraints.compiler import Constraint

LATEST = ":latest"  # the tag of every model here

Name = Annotated[ModelName, AfterValidator(lambda name: name and name.removesuffix(LATEST))]


class OllamaOptions(SamplingFields):
    """Ollama's options. Those that change nothing here are ignored, such as num_ctx."""

    model_config = ConfigDict(extra="ignore")

    num_predict: int = Field(
        0, ge=-2, description="Maximum number of characters to generate. Default 1,000; -1 and -2: as many as the server allows."
    )
    stop: Stop = Field([])
    seed: Seed = None
    repetition_penalty: float = Field(1.0, validation_alias=AliasChoices("repeat_penalty", "repetition_penalty"), ge=0.01, le=2)
    mirostat: Annotated[Any, only(0)] = None
    pace: Pace | None = None
    on_unknown: OnUnknown | None = None


Format = Annotated[
    Annotated[Literal["", "json"], Tag("[name]")] | Annotated[JsonSchema, Tag("[schema]")],
    Discriminator(lambda given: "[schema]" if isinstance(given, dict) else "[name]"),
]


class CommonFields(RequestBody):
    model: Name = None
    options: OllamaOptions = Field(default_factory=OllamaOptions)
    format: Format = Field("", description="The answer is any JSON object (`json`), or JSON under a schema.")
    stream: bool = True
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_TOP_LOGPROBS)
    keep_alive: Unused = None
    shift: Unused = None
    think: Unused = None
    truncate: Unused = None

    @property
    def constraint(self) -> Constraint | None:
        if self.format == "json":
            return Constraint("json_object", None)
        return Constraint("json_schema", self.format) if self.format else None


class OllamaCalledFunction(RequestBody):
    name: str
    arguments: dict[str, Any] = Field({})
    index: Unused = None


class OllamaMadeCall(RequestBody):
    function: OllamaCalledFunction
    id: Unused = None
    type: Unused = None


def _reject_images(images: Any) -> None:
    if images:
        raise invalid("", "images are not supported; send texts only")


Images = Annotated[None, BeforeValidator(_reject_images), Field(description="Not supported.")]


class OllamaInputMessage(RequestBody):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: list[OllamaMadeCall] = Field([], fail_fast=True)
    images: Images = None
    thinking: Unused = None
    tool_call_id: Unused = None
    tool_name: Unused = None

    @property
    def turn(self) -> Turn:
        calls = [(call.function.name, call.function.arguments) for call in self.tool_calls]
        return Turn(self.role, None, "\n".join(filter(None, [self.content, call_turn(calls).words])))


class OllamaChatRequest(CommonFields):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "shakespeare", "messages": [{"role": "user", "content": "Who art thou?"}]}]}
    )

    messages: Annotated[list[OllamaInputMessage], Field(max_length=MAX_MESSAGES, fail_fast=True)] = Field(
        [], description="Without messages the answer says that the model is loaded."
    )
    tools: list[FunctionTool] = Field([], max_length=MAX_TOOLS)

    @property
    def conversation(self) -> Conversation:
        return Conversation(
            turns=[message.turn for message in self.messages],
            continues=self.messages[-1].role == "assistant",
            format=self.constraint,
            format_field="format",
            tools=[tool.function.tool for tool in self.tools],
        )


class OllamaGenerateRequest(CommonFields):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "shakespeare", "prompt": "Who art thou?"}]})

    prompt: str = Field("", description="Without a prompt the answer says that the model is loaded.")
    system: str = ""
    raw: bool = Field(False, description="Continue the prompt. Otherwise the chat template makes a user's message of it.")
    context: Annotated[Any, only([])] = None
    images: Images = None
    suffix: Annotated[Any, only("")] = None
    template: Annotated[Any, only("")] = None

    @model_validator(mode="after")
    def _check_raw(self) -> Self:
        if self.raw and self.system:
            raise invalid("system", "cannot be combined with raw")
        return self

    @property
    def conversation(self) -> Conversation:
        system = [Turn("system", None, self.system)] if self.system else []
        turns = [*system, Turn("user", None, self.prompt)]
        return Conversation(turns=turns, format=self.constraint, format_field="format")


class ShowRequest(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "shakespeare"}]})

    model: Name = None
    name: Name = Field(None, description="Former name of model.")
    verbose: Unused = None
    options: Unused = None
    system: Unused = None
    template: Unused = None
