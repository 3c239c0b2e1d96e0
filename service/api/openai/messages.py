"""The messages of a chat, as OpenAI's clients send them."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from service.api.fields import Joined, RequestBody, Unsupported, Unused, only, only_types
from service.conversation import RESULTS, Turn, call_turn

MAX_MESSAGES = 10_000


class TextPart(RequestBody):
    type: Literal["text"]
    text: str
    cache_control: Unused = None
    prompt_cache_breakpoint: Unused = None


class CalledFunction(RequestBody):
    name: str
    arguments: str
    parsed_arguments: Unused = None  # added by OpenAI's client


class MadeCall(RequestBody):
    id: Unused = None
    index: Unused = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(RequestBody):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[Joined[TextPart], only_types("parts", "text")] = ""
    name: str | None = Field(None, description="Name of the speaker. The model reads it instead of the role.")
    tool_call_id: Unused = None
    tool_calls: list[MadeCall] = Field([], fail_fast=True)
    function_call: CalledFunction | None = None
    annotations: Annotated[Any, only([])] = None
    audio: Unsupported = None
    refusal: Unused = None
    reasoning_content: Unused = None
    parsed: Unused = None  # added by OpenAI's client

    @property
    def turn(self) -> Turn:
        calls = [call.function for call in self.tool_calls] + ([self.function_call] if self.function_call else [])
        if calls:
            called = call_turn([(call.name, call.arguments) for call in calls])
            return called._replace(name=self.name, words=f"{self.content}\n{called.words}" if self.content else called.words)
        return Turn(self.role, None if self.role in RESULTS else self.name, str(self.content))


class ChatMessages(RequestBody):
    """Messages, and whether a reply begins after them."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    continue_final_message: bool | None = Field(
        None,
        description="Continue the last message instead of starting a reply. If omitted, it is continued if its role is assistant.",
    )
    add_generation_prompt: bool | None = Field(
        None, description="Start a reply instead of continuing the last message: the opposite of continue_final_message."
    )

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

    @property
    def turns(self) -> list[Turn]:
        return [message.turn for message in self.messages]
