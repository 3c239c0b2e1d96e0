"""Answers of Anthropic's operations, whole and as events."""

import json
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from service.api.errors import ApiError
from service.api.events import event
from service.api.job import Job
from service.api.json_text import RawJson, to_json
from service.conversation import Arguments, CallBegun, Text, calls_in
from service.generation.output_queue import Chunk

STREAM = "the answer in parts, each named by its `type`"


class TextContent(BaseModel):
    type: Literal["text"]
    text: str


class ToolUseContent(BaseModel):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class MessageUsage(BaseModel):
    """Counts of characters. All of the prompt counts as input."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: Literal[0] = 0
    cache_read_input_tokens: Literal[0] = 0


class MessageResponse(BaseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextContent | ToolUseContent]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(BaseModel):
    input_tokens: int


class Answer:
    """A message in answer to a job, in parts. stop_sequences: the client's, in contrast to those of the chat template."""

    def __init__(self, job: Job, stop_sequences: list[str]) -> None:
        self.job, self._stop_sequences = job, stop_sequences
        self.id, self.reply = f"msg_{uuid.uuid4().hex[:24]}", job.reply(0)

    def message(self, content: list[dict[str, Any]], ending: Mapping[str, Any], written: int) -> dict[str, Any]:
        head = {"id": self.id, "type": "message", "role": "assistant", "model": self.job.model.config.name}
        return {**head, "content": content, **ending, "usage": self.usage(written)}

    def usage(self, written: int) -> dict[str, Any]:
        return MessageUsage(input_tokens=self.job.num_prompt, output_tokens=written).model_dump()

    @property
    def ending(self) -> dict[str, str | None]:
        """Why the message ended."""
        generation = self.job.completions[0].generation
        stopped_by = self.job.vocabulary.decode(generation.stopped_by)
        if generation.output.finish_reason != "stop":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if self.job.calls:
            return {"stop_reason": "tool_use", "stop_sequence": None}
        if stopped_by in self._stop_sequences:
            return {"stop_reason": "stop_sequence", "stop_sequence": stopped_by}
        return {"stop_reason": "end_turn", "stop_sequence": None}

    def whole(self, text: str) -> str:
        """The message as JSON, from all of its text."""
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if self.job.calls:
            calls = calls_in(self.reply.read(text))
            content = [tool_use(call.id, call.name, RawJson(call.arguments)) for call in calls]
        return to_json(self.message(content, self.ending, self.job.num_emitted))


def tool_use(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{call_id.removeprefix('call_')}", "name": name, "input": arguments}


class MessageStream:
    """The events of a message. See `service.api.sse.StreamFormat`."""

    def __init__(self, answer: Answer) -> None:
        self._answer, self._block, self._written = answer, 0, 0

    def opening(self) -> bytes:
        unknown = {"stop_reason": None, "stop_sequence": None}
        start = _event("message_start", message=self._answer.message([], unknown, 0))
        return start if self._answer.job.calls else start + self._start({"type": "text", "text": ""}) + PING

    def chunk(self, _: int, chunk: Chunk, *, ended: bool) -> bytes:
        answer, events = self._answer, []
        self._written += len(chunk.characters)
        for part in answer.reply.read(answer.job.vocabulary.decode(chunk.characters)):
            match part:
                case Text(text):
                    events.append(self._delta(type="text_delta", text=text))
                case CallBegun(i, call_id, name):
                    if i:
                        events.append(self._stop())
                    events.append(self._start(tool_use(call_id, name, {})))
                case Arguments(_, text):
                    events.append(self._delta(type="input_json_delta", partial_json=text))
        if ended:
            events += [self._stop(), _event("message_delta", delta=answer.ending, usage=answer.usage(self._written))]
        return b"".join(events)

    def closing(self) -> bytes:
        return _event("message_stop")

    def failure(self, error: ApiError) -> bytes:
        return event(error.anthropics_body.model_dump_json(), "error")

    def _start(self, block: dict[str, Any]) -> bytes:
        return _event("content_block_start", index=self._block, content_block=block)

    def _delta(self, **delta: str) -> bytes:
        return _event("content_block_delta", index=self._block, delta=delta)

    def _stop(self) -> bytes:
        self._block += 1
        return _event("content_block_stop", index=self._block - 1)


def _event(kind: str, **fields: Any) -> bytes:
    return event(json.dumps({"type": kind, **fields}, ensure_ascii=False), kind)


PING = _event("ping")
