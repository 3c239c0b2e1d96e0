"""The input of a response: messages, calls of functions and the results of these."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Tag

from service.api.fields import Joined, RequestBody, Unused, by_type, only_types
from service.conversation import Turn, call_turn
from service.notes import note_ignored


class InputText(RequestBody):
    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Unused = None
    logprobs: Unused = None
    parsed: Unused = None  # by OpenAI's client
    prompt_cache_breakpoint: Unused = None


Content = Joined[Annotated[InputText, only_types("parts", "input_text", "output_text", "text")]]


class Item(RequestBody):
    """Fields that an answer's items have. They change nothing when the client sends such an item back."""

    id: Unused = None
    status: Unused = None
    caller: Unused = None
    namespace: Unused = None
    async_: Unused = Field(None, alias="async")


class MessageItem(Item):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    phase: Unused = None

    @property
    def turn(self) -> Turn:
        return Turn(self.role, None, str(self.content))


class FunctionCall(Item):
    type: Literal["function_call"]
    name: str
    arguments: str
    call_id: Unused = None
    parsed_arguments: Unused = None  # by OpenAI's client


class FunctionCallOutput(Item):
    type: Literal["function_call_output"]
    output: Content
    call_id: Unused = None
    name: Unused = None

    @property
    def turn(self) -> Turn:
        return Turn("tool", None, str(self.output))


def _note_reference(item: Any) -> Any:
    """Nothing is stored, so what an item only refers to is left out. The header X-Ignored-Fields says so."""
    if isinstance(item, Mapping) and "id" in item and (item.get("type") == "item_reference" or item.keys() == {"id"}):
        note_ignored("item_reference")
        return {"type": "item_reference", "id": item["id"]}
    return item


InputItem = Annotated[
    Annotated[MessageItem, Tag("[message]")]
    | Annotated[FunctionCall, Tag("[function_call]")]
    | Annotated[FunctionCallOutput, Tag("[function_call_output]")]
    | Annotated[dict[str, Any], Tag("[reasoning]")]  # of another model; ignored
    | Annotated[dict[str, Any], Tag("[item_reference]")],
    by_type("message"),
    only_types("items", "message", "function_call", "function_call_output", "reasoning", "item_reference"),
    BeforeValidator(_note_reference),
]


def turns_of(items: Sequence[MessageItem | FunctionCall | FunctionCallOutput | dict[str, Any]]) -> list[Turn]:
    """Calls that follow one another are one turn."""
    turns: list[Turn] = []
    said = [item for item in items if not isinstance(item, dict)]
    for are_calls, group in groupby(said, lambda item: isinstance(item, FunctionCall)):
        if are_calls:
            turns.append(call_turn([(call.name, call.arguments) for call in group if isinstance(call, FunctionCall)]))
        else:
            turns += [item.turn for item in group if not isinstance(item, FunctionCall)]
    return turns
