"""From a checked body of either operation to a job, and what every part of its answer says."""

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from service.api.errors import ApiError
from service.api.events import event
from service.api.fields import OnUnknown
from service.api.job import Job
from service.api.openai.requests import CommonFields
from service.api.openai.responses import FinishReason, TokenUsage
from service.api.validation import (
    check_length,
    check_logprobs,
    history_of,
    random_seed,
    read_text,
    read_tokens,
    sampling_of,
    stop_ids,
)
from service.generation.output_queue import Chunk
from service.generation.request import Generation, Prompt
from service.registry import Model
from service.settings import Settings

STREAM = "the answer in parts, then `[DONE]`"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class CompletionParams:
    """What an operation asks of the engine, each from its own fields."""

    kind: str  # the answer's id begins with it
    prompts: Sequence[str | list[int]]  # texts or ids
    max_tokens: int  # of each continuation
    stop: Sequence[str]
    logprobs: int | None
    on_unknown: OnUnknown | None  # None: replace where the model knows a space, else skip
    prompt_field: str  # errors name it
    max_tokens_field: str  # errors name it
    echo: bool = False  # the texts begin with the prompts, which are scored too if there are logprobs


@dataclass(frozen=True)
class Answer:
    """An accepted request."""

    body: CommonFields
    params: CompletionParams
    job: Job
    id: str
    created: int

    @property
    def fields(self) -> dict[str, Any]:
        """What every part of the answer begins with."""
        model = self.job.model
        fingerprint = f"{model.config.version}-{model.weights_digest}-{model.arithmetic}"
        return {"id": self.id, "created": self.created, "model": model.config.name, "system_fingerprint": fingerprint}

    @property
    def usage(self) -> TokenUsage:
        return self.usage_after(self.job.num_emitted)

    def usage_after(self, written: int) -> TokenUsage:
        """The usage once that many characters have been written."""
        read = self.job.num_prompt
        return TokenUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    def finish_reason(self, i: int) -> FinishReason:
        return "stop" if self.job.completions[i].generation.output.finish_reason == "stop" else "length"


def accept(request: Request, body: CommonFields, params: CompletionParams) -> Answer:
    """Checks a request. Raises ApiError, UnknownModel or NotReady."""
    settings: Settings = request.app.state.settings
    model: Model = request.app.state.registry.get(body.model)
    _check_limits(body, params, model, settings)
    vocabulary, seed = model.vocabulary, random_seed() if body.seed is None else body.seed
    sampling, stop = sampling_of(model, body, body.logit_bias), stop_ids(params.stop, vocabulary)
    generations: list[tuple[str, Generation]] = []
    for given in params.prompts:
        text, prompt = _read(given, body, params, model, settings)
        for _ in range(body.n):
            generation = Generation(
                prompt=prompt,
                num_generate=params.max_tokens,
                sampling=sampling,
                history=history_of(model, sampling, prompt.ids),
                seed=seed,
                choice=len(generations),
                stop=stop,
                top_logprobs=params.logprobs,
                min_tokens=body.min_tokens,
            )
            generations.append((text, generation))
    job = Job(request, model, generations, pace=body.pace)
    return Answer(body, params, job, f"{params.kind}-{uuid.uuid4().hex}", int(time.time()))


def _check_limits(body: CommonFields, params: CompletionParams, model: Model, settings: Settings) -> None:
    count, limit = len(params.prompts) * body.n, min(settings.max_choices, model.engine.capacity)
    if count > limit:
        message = f"n: {len(params.prompts)} x {body.n} continuations exceed this server's limit of {limit}"
        raise ApiError(422, "too_many", message, param="n")
    check_length(params.max_tokens_field, count * params.max_tokens, settings.max_num_generate)
    echoed = sum(map(len, params.prompts)) * body.n if params.echo else 0
    check_logprobs(count * params.max_tokens + echoed, params.logprobs, settings)
    if body.min_tokens > params.max_tokens:
        message = f"min_tokens: {body.min_tokens:,} are more than {params.max_tokens_field}"
        raise ApiError(422, "invalid_value", message, param="min_tokens")


def _read(
    given: str | list[int], body: CommonFields, params: CompletionParams, model: Model, settings: Settings
) -> tuple[str, Prompt]:
    """(The text as it was read, its prompt)."""
    field, vocabulary, limit = params.prompt_field, model.vocabulary, settings.max_start_string
    if len(given) > limit:  # in words that clients look for
        message = f"This model's maximum context length is {limit:,} tokens, but {field} has {len(given):,}; a token is a character"
        raise ApiError(422, "context_length_exceeded", message, param=field)
    if isinstance(given, str):
        on_unknown = params.on_unknown or ("replace" if " " in vocabulary.characters else "skip")
        text, ids = read_text(vocabulary, given, on_unknown, field)
    else:
        text, ids = read_tokens(vocabulary, given, field)
    if not len(ids):
        why = "nothing is left without unknown characters" if given else "there is no text in it"
        raise ApiError(422, "invalid_value", f"{field}: {why}", param=field)
    return text, Prompt(ids, shared=body.n > 1, scored=params.echo and params.logprobs is not None)


@dataclass(frozen=True)
class ChunkForm:
    """What the chunks of an operation's stream hold."""

    object: str
    part: Callable[[Answer, int, Chunk, int], dict[str, Any]]  # new text of a choice; the number is the characters before it
    opening: Mapping[str, Any] | None  # what a choice begins with
    closing: Mapping[str, Any]  # stands beside the finish reason


class AnswerStream:
    """The choices' parts as they come, then the usage if it was requested, then [DONE]. See `service.api.sse.StreamFormat`."""

    def __init__(self, answer: Answer, form: ChunkForm) -> None:
        self._answer, self._form = answer, form
        self._head = {"object": form.object, **answer.fields}
        self._offsets = [0] * len(answer.job.completions)
        self._begun = set[int]()

    def opening(self) -> bytes:
        return b""

    def chunk(self, i: int, chunk: Chunk, *, ended: bool) -> bytes:
        # As OpenAI does: the role alone, then texts, then the reason alone. Clients ignore a text beside these two.
        answer, form = self._answer, self._form
        parts = [self._event(_without_text(i, form.opening))] if i not in self._begun and form.opening else []
        if chunk.characters or (i not in self._begun and answer.params.echo):
            offset = self._offsets[i]
            self._offsets[i] += len(chunk.characters)
            parts.append(self._event(form.part(answer, i, chunk, offset)))
        if ended:
            parts.append(self._event(_without_text(i, form.closing, answer.finish_reason(i))))
        self._begun.add(i)
        return b"".join(parts)

    def closing(self) -> bytes:
        return (self._event() if self._answer.body.include_usage else b"") + DONE

    def failure(self, error: ApiError) -> bytes:
        return event(error.body.model_dump_json()) + DONE

    def _event(self, *choices: dict[str, Any]) -> bytes:
        usage: dict[str, Any] = {}
        if self._answer.body.include_usage:
            every = self._answer.body.continuous_usage or not choices
            usage = {"usage": self._answer.usage_after(sum(self._offsets)).model_dump() if every else None}
        return event(json.dumps({**self._head, "choices": choices, **usage}, ensure_ascii=False))


def _without_text(i: int, content: Mapping[str, Any], finish_reason: FinishReason | None = None) -> dict[str, Any]:
    return {"index": i, **content, "logprobs": None, "finish_reason": finish_reason}
