"""How OpenAI's operations write a job's answer: what every part of it says, and its stream."""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from service.api.errors import ApiError
from service.api.events import event
from service.api.job import Job
from service.api.openai.answers import FinishReason, PromptTokensDetails, TokenUsage, UsageChunks, fingerprint_of
from service.generation.output_queue import Chunk

STREAM = "the answer in parts, then `[DONE]`"
DONE = b"data: [DONE]\n\n"

Choice = dict[str, Any]


class Answer:
    """The id, the model and the counts of an answer."""

    def __init__(self, kind: str, job: Job, called: FinishReason = "tool_calls") -> None:
        """kind: the answer's id begins with it. called: the finish reason of an answer that consists of calls."""
        self.job, self.id, self.created, self._called = job, f"{kind}-{uuid.uuid4().hex}", int(time.time()), called

    @property
    def fields(self) -> dict[str, Any]:
        """What every part of the answer begins with."""
        model = self.job.model
        return {"id": self.id, "created": self.created, "model": model.config.name, "system_fingerprint": fingerprint_of(model)}

    @property
    def usage(self) -> TokenUsage:
        return self.usage_after(self.job.num_emitted)

    def usage_after(self, written: int) -> TokenUsage:
        """The usage once that many characters have been written."""
        read = self.job.num_prompt
        return TokenUsage(
            prompt_tokens=read,
            completion_tokens=written,
            total_tokens=read + written,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=self.job.num_cached),
        )

    def finish_reason(self, i: int) -> FinishReason:
        if self.job.completions[i].generation.output.finish_reason != "stop":
            return "length"
        return self._called if self.job.calls else "stop"


class AnswerStream:
    """The choices' parts as they come, then the usage if it was requested, then [DONE]. See `service.api.sse.StreamFormat`.

    As OpenAI does, a choice has the role alone, then texts, then the finish reason alone. Clients ignore a text beside these two.
    """

    def __init__(
        self,
        answer: Answer,
        usage: UsageChunks,
        object_name: str,
        parts: Callable[[int, Chunk, int], list[Choice]],
        opening: Mapping[str, Any] | None,
        closing: Mapping[str, Any],
    ) -> None:
        """parts: the new parts of a choice, from its index, its new characters and the number of those before them.

        opening: what a choice begins with. closing: stands beside the finish reason.
        """
        self._answer, self._usage, self._parts, self._opening, self._closing = answer, usage, parts, opening, closing
        self._head = {"object": object_name, **answer.fields}
        self._offsets = [0] * len(answer.job.completions)
        self._begun = set[int]()

    def opening(self) -> bytes:
        return b""

    def chunk(self, i: int, chunk: Chunk, *, ended: bool) -> bytes:
        events = []
        if i not in self._begun and self._opening:
            events.append(self._event(_without_text(i, self._opening)))
        self._begun.add(i)
        offset = self._offsets[i]
        self._offsets[i] += len(chunk.characters)
        events += [self._event(part) for part in self._parts(i, chunk, offset)]
        if ended:
            events.append(self._event(_without_text(i, self._closing, self._answer.finish_reason(i))))
        return b"".join(events)

    def closing(self) -> bytes:
        return (self._event() if self._usage != "none" else b"") + DONE

    def failure(self, error: ApiError) -> bytes:
        return event(error.body.model_dump_json()) + DONE

    def _event(self, *choices: Choice) -> bytes:
        usage: dict[str, Any] = {}
        if self._usage != "none":
            every = self._usage == "always" or not choices
            usage = {"usage": self._answer.usage_after(sum(self._offsets)).model_dump() if every else None}
        return event(json.dumps({**self._head, "choices": choices, **usage}, ensure_ascii=False))


def _without_text(i: int, content: Mapping[str, Any], finish_reason: FinishReason | None = None) -> Choice:
    return {"index": i, **content, "logprobs": None, "finish_reason": finish_reason}
