"""Fields of OpenAI's operations that restrict an answer: tools, the format of the response, and vLLM's structured outputs."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, Tag

from service.api.fields import (
    Choices,
    JsonSchema,
    Regex,
    RequestBody,
    Unsupported,
    Unused,
    by_type,
    invalid,
    only_constraint,
    only_types,
)
from service.conversation import Tool, ToolMode
from service.generation.constraints.compiler import Constraint

MAX_TOOLS = 128
AUTO = "With auto the answer is a text, unless the server's option --auto-tools or the request's header X-Folio-Tools is call."
NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


ToolSelection = tuple[ToolMode, list[str]]  # how tools are called, and their names; without names, all tools of the request


class ToolChoiceForm(Protocol):
    """A choice of tools, in the form of some protocol."""

    @property
    def chosen(self) -> ToolSelection: ...


class Named(RequestBody):
    name: str

    @property
    def chosen(self) -> ToolSelection:
        return "one", [self.name]


class FunctionDefinition(RequestBody):
    name: ToolName
    description: str | None = Field(None, description="Ignored.")
    parameters: JsonSchema | None = Field(None, description="JSON Schema of the arguments, an object. If omitted, there are none.")
    strict: bool | None = Field(None, description="Ignored: arguments are always valid.")

    @property
    def tool(self) -> Tool:
        return Tool(self.name, schema_of_arguments(self.parameters))


def schema_of_arguments(schema: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A tool's schema, which may be omitted and may leave out that it is one of objects."""
    return {"type": "object", **schema} if schema else NO_ARGUMENTS


class FunctionTool(RequestBody):
    type: Literal["function"] = "function"
    function: FunctionDefinition


class NamedFunction(RequestBody):
    type: Literal["function"] = "function"
    function: Named

    @property
    def chosen(self) -> ToolSelection:
        return self.function.chosen


class AllowedTools(RequestBody):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Field(min_length=1, fail_fast=True)]


class AllowedToolsChoice(RequestBody):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools

    @property
    def chosen(self) -> ToolSelection:
        return self.allowed_tools.mode, [tool.function.name for tool in self.allowed_tools.tools]


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("[mode]")]
    | Annotated[NamedFunction, Tag("[function]")]
    | Annotated[AllowedToolsChoice, Tag("[allowed_tools]")],
    by_type("function", "mode"),
    only_types("choices", "function", "allowed_tools"),
]


def chosen_tools(tools: list[Tool], choice: ToolMode | ToolChoiceForm | None) -> tuple[list[Tool], ToolMode]:
    """(The tools that may be called, how they are called). Raises PydanticCustomError."""
    mode, names = (choice or "auto", []) if choice is None or isinstance(choice, str) else choice.chosen
    known = {tool.name: tool for tool in tools}
    if len(known) < len(tools):
        raise invalid("tools", "two of them have the same name")
    for name in names:
        if name not in known:
            raise invalid("tool_choice", f"there is no tool {name!r} in tools")
    if mode == "required" and not tools:
        raise invalid("tool_choice", "a call is required, but there are no tools")
    return [known[name] for name in names] or tools, mode


class NamedSchema(RequestBody):
    name: Unused = None
    description: Unused = None
    strict: Unused = None  # an answer is always valid
    schema_: JsonSchema | None = Field(None, alias="schema", description="If omitted, the answer is any object.")

    @property
    def constraint(self) -> Constraint:
        return Constraint("json_object", None) if self.schema_ is None else Constraint("json_schema", self.schema_)


class TextFormat(RequestBody):
    type: Literal["text"]

    @property
    def constraint(self) -> None:
        return None


class JsonObjectFormat(RequestBody):
    type: Literal["json_object"]

    @property
    def constraint(self) -> Constraint:
        return Constraint("json_object", None)


class JsonSchemaFormat(RequestBody):
    type: Literal["json_schema"]
    json_schema: NamedSchema

    @property
    def constraint(self) -> Constraint:
        return self.json_schema.constraint


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StructuredOutputs(RequestBody):
    """vLLM's field for constraints. One of them may be set."""

    json_: JsonSchema | str | None = Field(None, alias="json")
    regex: Regex | None = None
    choice: Choices | None = None
    json_object: bool | None = None
    grammar: Unsupported = None
    structural_tag: Unsupported = None
    disable_fallback: Unused = None
    disable_any_whitespace: Unused = None
    disable_additional_properties: Unused = None
    whitespace_pattern: Unused = None

    @property
    def constraint(self) -> Constraint | None:
        return only_constraint(
            regex=self.regex,
            choices=self.choice,
            json_schema=self.json_,
            json_object=self.json_object,
            names={"choices": "choice", "json_schema": "json"},
        )
