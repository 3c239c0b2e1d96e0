"""Answers of Ollama's operations, whole and as lines of JSON."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel

from service.api.errors import ApiError
from service.api.events import LINE_ENDS
from service.api.job import Job
from service.api.json_text import RawJson, to_json
from service.api.openai.answers import TokenLogprob
from service.api.openai.logprobs import token_logprobs
from service.conversation import Part, Text, calls_in
from service.generation.output_queue import Chunk

NDJSON = "application/x-ndjson"


class Ended(BaseModel):
    """Counts are of characters, durations in nanoseconds. The last line of a stream has all of this, the others only the text."""

    model: str
    created_at: str
    done: Literal[True]
    done_reason: Literal["stop", "length", "load"]
    logprobs: list[TokenLogprob] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class OllamaGenerateResponse(Ended):
    response: str


class OllamaFunction(BaseModel):
    index: int
    name: str
    arguments: dict[str, Any]


class OllamaCall(BaseModel):
    id: str
    function: OllamaFunction


class OllamaMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    tool_calls: list[OllamaCall] | None = None


class OllamaChatResponse(Ended):
    message: OllamaMessage


def stream_content() -> dict[str, Any]:
    """The OpenAPI `content` of a streamed answer."""
    return {NDJSON: {"schema": {"type": "string", "description": "Lines of JSON, each a part of the answer."}}}


class Answer:
    """An answer in parts, and its stream. See `service.api.sse.StreamFormat`."""

    def __init__(self, job: Job, *, chats: bool) -> None:
        """chats: the answer is a message, not a text."""
        self._job, self._chats = job, chats
        self._reply, self._calls, self._logprobs = job.reply(0), list[Part](), list[dict[str, Any]]()

    def whole(self, chunk: Chunk) -> str:
        return to_json(self._read(chunk, ended=True) | self._end())

    def opening(self) -> bytes:
        return b""

    def chunk(self, _: int, chunk: Chunk, *, ended: bool) -> bytes:
        """Calls are written at the end, because clients expect whole ones."""
        part = self._read(chunk, ended=ended)
        if ended:
            return _line(part) + _line(self._part("") | self._end())
        return b"" if self._job.calls else _line(part)

    def closing(self) -> bytes:
        return b""

    def failure(self, error: ApiError) -> bytes:
        return _line(error.ollamas_body.model_dump())

    @property
    def keep_alive(self) -> bytes:
        return _line(self._part(""))

    def _part(self, text: str) -> dict[str, Any]:
        return text_part(self._job.model.config.name, text, chats=self._chats)

    def _read(self, chunk: Chunk, *, ended: bool) -> dict[str, Any]:
        """The new part of the answer."""
        parts = self._reply.read(self._job.vocabulary.decode(chunk.characters))
        found = self._part("".join(part.text for part in parts if isinstance(part, Text)))
        if self._job.calls:
            self._calls += parts
            found["message"]["tool_calls"] = [
                {"id": call.id, "function": {"index": i, "name": call.name, "arguments": RawJson(call.arguments)}}
                for i, call in enumerate(calls_in(self._calls) if ended else [])
            ]
        if (logprobs := token_logprobs(self._job.vocabulary, chunk)) is not None:
            self._logprobs += [entry.model_dump() for entry in logprobs]
            if ended or not self._job.calls:
                found["logprobs"], self._logprobs = self._logprobs, []
        return found

    def _end(self) -> dict[str, Any]:
        generation = self._job.completions[0].generation
        now = time.perf_counter()
        times = generation.times(now)
        return {
            "done": True,
            "done_reason": "stop" if generation.output.finish_reason == "stop" else "length",
            "total_duration": nanoseconds(now - generation.arrived_at),
            "load_duration": nanoseconds(times.queue),
            "prompt_eval_count": self._job.num_prompt,
            "prompt_eval_duration": nanoseconds(times.prefill or 0),
            "eval_count": self._job.num_emitted,
            "eval_duration": nanoseconds(times.decode or 0),
        }


def text_part(model: str, text: str, *, chats: bool) -> dict[str, Any]:
    """A part of an answer that is not its end."""
    content: Mapping[str, Any] = {"message": {"role": "assistant", "content": text}} if chats else {"response": text}
    return {"model": model, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"), **content, "done": False}


def nanoseconds(seconds: float) -> int:
    return max(1, int(seconds * 1e9))  # clients divide by it


def _line(part: dict[str, Any]) -> bytes:
    """Escapes the line ends that JSON does not and that some clients split at."""
    return f"{to_json(part).translate(LINE_ENDS)}\n".encode("utf-8", "backslashreplace")
