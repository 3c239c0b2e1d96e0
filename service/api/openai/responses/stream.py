"""Writes the answer of /v1/responses while it is generated: an object that grows, and the events that tell how."""

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from service.api.errors import ApiError
from service.api.events import event
from service.api.job import Job
from service.api.openai.answers import TokenLogprob, fingerprint_of
from service.api.openai.logprobs import token_logprobs
from service.api.openai.responses.answer import (
    IncompleteDetails,
    InputDetails,
    ItemStatus,
    OutputCall,
    OutputMessage,
    OutputText,
    ResponseError,
    ResponsesAnswer,
    ResponseUsage,
)
from service.conversation import Arguments, CallBegun, Text
from service.generation.output_queue import Chunk

Event = tuple[str, dict[str, Any]]  # type, fields


class ResponsesStream:
    """See `service.api.sse.StreamFormat`. After the last chunk `answer` is complete, whether or not the events are sent."""

    def __init__(self, job: Job, echoed: Mapping[str, Any]) -> None:
        """echoed: the fields that the answer repeats of its request."""
        self._job, self._reply, self._num_events = job, job.reply(0), 0
        self._texts: list[str] = []  # of the last item
        self._logprobs: list[TokenLogprob] = []
        self.answer = ResponsesAnswer(
            id=f"resp_{uuid.uuid4().hex}",
            created_at=int(time.time()),
            model=job.model.config.name,
            system_fingerprint=fingerprint_of(job.model),
            **echoed,
        )

    def opening(self) -> bytes:
        return self._written([self._lifecycle("created"), self._lifecycle("in_progress")])

    def chunk(self, _: int, chunk: Chunk, *, ended: bool) -> bytes:
        written = self._written(self._read(chunk))
        return written + self._written(self._end()) if ended else written

    def closing(self) -> bytes:
        return self._written([self._lifecycle(self.answer.status)])

    def failure(self, error: ApiError) -> bytes:
        self._close("incomplete")
        self.answer.status, self.answer.error = "failed", ResponseError(message=error.body.error.message)
        return self._written([self._lifecycle("failed")])

    def whole(self, chunk: Chunk) -> bytes:
        """The answer with all its characters as JSON. Lone surrogates in what it repeats of the request are escaped."""
        for _ in (*self._read(chunk), *self._end()):  # the events, which only a stream sends
            pass
        return json.dumps(self.answer.model_dump(), ensure_ascii=False).encode("utf-8", "backslashreplace")

    def _read(self, chunk: Chunk) -> Iterator[Event]:
        """Adds new characters to the answer."""
        logprobs = token_logprobs(self._job.vocabulary, chunk) or []
        for part in self._reply.read(self._job.vocabulary.decode(chunk.characters)):
            match part:
                case Text(text):
                    yield from self._begin_message()
                    self._logprobs += logprobs
                    yield self._delta("output_text", text, content_index=0, logprobs=[entry.model_dump() for entry in logprobs])
                case CallBegun(_, call_id, name):
                    yield from self._finish("completed")
                    yield self._begin(OutputCall(id=_item_id("fc", call_id), call_id=call_id, name=name))
                case Arguments(_, text):
                    yield self._delta("function_call_arguments", text)

    def _end(self) -> Iterator[Event]:
        """Once the text has ended."""
        complete = self._job.completions[0].generation.output.finish_reason == "stop"
        if not self._job.calls:
            yield from self._begin_message()  # even an empty answer has one
        yield from self._finish("completed" if complete else "incomplete")
        answer, read, written = self.answer, self._job.num_prompt, self._job.num_emitted
        cached = InputDetails(cached_tokens=self._job.num_cached)
        answer.usage = ResponseUsage(
            input_tokens=read, input_tokens_details=cached, output_tokens=written, total_tokens=read + written
        )
        if complete:
            answer.status, answer.completed_at = "completed", int(time.time())
        else:
            answer.status, answer.incomplete_details = "incomplete", IncompleteDetails()

    def _begin_message(self) -> Iterator[Event]:
        """Adds the message, unless that is done."""
        if not self.answer.output:
            message = OutputMessage(id=_item_id("msg", self._reply.id_of(0)))
            yield self._begin(message)
            message.content.append(OutputText())
            yield self._of_item("content_part.added", content_index=0, part=message.content[0].model_dump())

    def _begin(self, item: OutputMessage | OutputCall) -> Event:
        self.answer.output.append(item)
        self._texts.clear()
        return self._item("added")

    def _finish(self, status: ItemStatus) -> Iterator[Event]:
        """Ends the last item, if there is one."""
        self._close(status)
        match self.answer.output:
            case [*_, OutputMessage(content=[part])]:
                told = part.model_dump()
                yield self._of_item("output_text.done", content_index=0, text=part.text, logprobs=told["logprobs"])
                yield self._of_item("content_part.done", content_index=0, part=told)
                yield self._item("done")
            case [*_, OutputCall(name=name, arguments=arguments)]:
                yield self._of_item("function_call_arguments.done", name=name, arguments=arguments)
                yield self._item("done")

    def _close(self, status: ItemStatus) -> None:
        """Gives the last item, if there is one, its text and its status."""
        match self.answer.output:
            case [*_, OutputMessage(content=[part]) as item]:
                part.text, part.logprobs, item.status = "".join(self._texts), self._logprobs, status
            case [*_, OutputCall() as item]:
                item.arguments, item.status = "".join(self._texts), status

    def _delta(self, kind: str, text: str, **fields: Any) -> Event:
        self._texts.append(text)
        return self._of_item(f"{kind}.delta", delta=text, **fields)

    def _of_item(self, kind: str, **fields: Any) -> Event:
        """An event about the contents of the last item."""
        output = self.answer.output
        return kind, {"item_id": output[-1].id, "output_index": len(output) - 1, **fields}

    def _item(self, change: str) -> Event:
        """An event about the last item."""
        output = self.answer.output
        return f"output_item.{change}", {"output_index": len(output) - 1, "item": output[-1].model_dump()}

    def _lifecycle(self, status: str) -> Event:
        """An event about the whole answer."""
        return status, {"response": self.answer.model_dump()}

    def _written(self, events: Iterable[Event]) -> bytes:
        written = []
        for kind, fields in events:
            name = f"response.{kind}"
            data = {"type": name, "sequence_number": self._num_events, **fields}
            written.append(event(json.dumps(data, ensure_ascii=False), name))
            self._num_events += 1
        return b"".join(written)


def _item_id(prefix: str, call_id: str) -> str:
    """An id that is repeated whenever the id of the call is."""
    return f"{prefix}_{call_id.removeprefix('call_')}"
