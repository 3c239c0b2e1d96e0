"""OpenAI's operations on the same engine, so that its clients work unchanged: a token is a character."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from service.api.asking import (
    check_length,
    check_logprobs,
    drawn_seed,
    history_of,
    read_text,
    read_tokens,
    sampling_of,
    stop_ids,
    submitted,
)
from service.api.body import JsonBody
from service.api.body_route import BodyRoute, json_response
from service.api.dependencies import CurrentRegistry
from service.api.errors import ApiError, error_responses, to_api_error
from service.api.fields import OnUnknown
from service.api.openai_schemas import (
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    FinishReason,
    Sampled,
    ServedModel,
    ServedModels,
    TokenLogprob,
    TokenUsage,
    TopLogprob,
)
from service.api.reader import Reader
from service.api.streaming import COMMENT, EventStream, described, event, unless_left
from service.api.tokens import weights_digest
from service.api.work import Work
from service.generation.engine import EngineStopped
from service.generation.output_queue import Chunk, concatenated
from service.generation.request import Generation, Prompt
from service.registry import Model, Registry
from service.settings import Settings
from trainer.vocabulary import Vocabulary

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1", tags=["openai"], route_class=BodyRoute)

STREAM = described("the answer in parts, then `[DONE]`")
ERRORS = error_responses(400, 404, 413, 415, 503)
DONE = b"data: [DONE]\n\n"
MOST_OF_A_REPLY = 1000  # characters, where a chat sets no limit


@dataclass(frozen=True)
class Choice:
    """One continuation of a prompt."""

    prompt: str
    generation: Generation
    reader: Reader

    @property
    def finish_reason(self) -> FinishReason:
        return "stop" if self.generation.output.finish_reason == "stop" else "length"


@dataclass(frozen=True)
class Answer:
    """What a request began: its choices, and what every part of the answer says."""

    body: Sampled
    asked: "Asked"
    id: str
    created: int
    model: Model
    choices: Sequence[Choice]
    work: Work

    @property
    def fields(self) -> dict[str, Any]:
        model = self.model
        fingerprint = f"{model.config.version}-{weights_digest(model)}-{model.arithmetic}"
        return {"id": self.id, "created": self.created, "model": model.config.name, "system_fingerprint": fingerprint}

    @property
    def usage(self) -> TokenUsage:
        return self.usage_of(sum(choice.generation.num_emitted for choice in self.choices))

    def usage_of(self, written: int) -> TokenUsage:
        """The usage once so many characters have been written."""
        read = sum({id(choice.generation.prompt): len(choice.prompt) for choice in self.choices}.values())
        return TokenUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    def wake(self) -> None:
        """Makes one of the choices that have not ended give a comment."""
        for choice in self.choices:
            if not choice.reader.ended:
                choice.generation.output.wake()
                return


@dataclass(frozen=True)
class ChunkForm:
    """What the chunks of an operation's stream hold."""

    object: str
    part: Callable[[Answer, int, Chunk, int], dict[str, Any]]
    opening: Mapping[str, Any] | None  # what a choice begins with
    closing: Mapping[str, Any]  # stands beside the finish reason


@dataclass(frozen=True)
class Asked:
    """What the two operations ask of the engine, each from its own fields."""

    kind: str  # which the answer's id begins with
    prompts: Sequence[str | list[int]]  # texts or their ids
    most: int  # characters of each continuation
    stop: Sequence[str]
    logprobs: int | None
    on_unknown: OnUnknown | None  # None: replace where the model knows a space, else skip
    field: str  # which the prompts come from
    limit: str  # the field that `most` comes from
    echo: bool = False  # the answer's texts begin with the prompts; with logprobs they are scored too


@contextmanager
def _begun(request: Request, body: Sampled, asked: Asked) -> Iterator[Answer]:
    """Hands all of a request's continuations to the engine, or none; whatever ends the answer, they are cancelled."""
    registry: Registry = request.app.state.registry
    settings: Settings = request.app.state.settings
    model = registry.get(body.model)
    count, most = len(asked.prompts) * body.n, min(settings.max_choices, model.engine.capacity)
    if count > most:
        message = f"n: {len(asked.prompts)} x {body.n} continuations are more than the {most} allowed here"
        raise ApiError(422, "too_many", message, param="n")
    check_length(asked.limit, count * asked.most, settings.max_num_generate)
    echoed = sum(map(len, asked.prompts)) * body.n if asked.echo else 0
    check_logprobs(count * asked.most + echoed, asked.logprobs, settings)
    if body.min_tokens > asked.most:
        raise ApiError(422, "invalid_value", f"min_tokens: {body.min_tokens:,} are more than {asked.limit}", param="min_tokens")
    vocabulary, seed = model.vocabulary, drawn_seed() if body.seed is None else body.seed
    sampling = sampling_of(model, body, body.logit_bias)
    choices: list[Choice] = []
    on_unknown = asked.on_unknown or ("replace" if " " in vocabulary.characters else "skip")
    for given in asked.prompts:
        _check_context(asked.field, len(given), settings.max_start_string)
        if isinstance(given, str):
            read, ids = read_text(vocabulary, given, on_unknown, asked.field)
        else:
            read, ids = read_tokens(vocabulary, given, asked.field)
        if not len(ids):
            why = "nothing is left without unknown characters" if given else "there is no text in it"
            raise ApiError(422, "invalid_value", f"{asked.field}: {why}", param=asked.field)
        prompt = Prompt(ids, shared=body.n > 1, scored=asked.echo and asked.logprobs is not None)
        for _ in range(body.n):
            generation = Generation(
                prompt=prompt,
                num_generate=asked.most,
                sampling=sampling,
                history=history_of(model, sampling, ids),
                seed=seed,
                choice=len(choices),
                stop=stop_ids(asked.stop, vocabulary),
                top_logprobs=asked.logprobs,
                min_tokens=body.min_tokens,
            )
            choices.append(Choice(read, generation, Reader(generation, pace=body.pace, over=lambda: registry.ended)))
    work = Work(model, [choice.generation for choice in choices], list(dict.fromkeys(choice.prompt for choice in choices)))
    with submitted(request, work):
        yield Answer(body, asked, f"{asked.kind}-{uuid.uuid4().hex}", int(time.time()), model, choices, work)


def _check_context(field: str, given: int, limit: int) -> None:
    """Raises ApiError, in words that clients look for."""
    if given > limit:
        message = f"This model's maximum context length is {limit:,} tokens (a token is a character), but {field} has {given:,}"
        raise ApiError(422, "context_length_exceeded", message, param=field)


@router.post("/completions", response_model=Completion, responses={200: {"content": STREAM}, **ERRORS})
async def complete(request: Request, body: JsonBody[CompletionRequest]) -> Response:
    """Continues each prompt n times."""
    asked = Asked(
        "cmpl", body.prompts, body.max_tokens, body.stop, body.logprobs, body.on_unknown, "prompt", "max_tokens", body.echo
    )
    if body.stream:
        return _stream(request, body, asked, COMPLETION)
    with _begun(request, body, asked) as answer:
        chunks = await unless_left(_read(answer), request.receive)
        choices = [
            _completion_choice(answer, i, chunk, 0, choice.finish_reason)
            for i, (choice, chunk) in enumerate(zip(answer.choices, chunks, strict=True))
        ]
        return json_response(Completion(choices=choices, usage=answer.usage, **answer.fields))


@router.post("/chat/completions", response_model=ChatCompletion, responses={200: {"content": STREAM}, **ERRORS})
async def chat(request: Request, body: JsonBody[ChatRequest]) -> Response:
    """Writes what the assistant says next, the messages rendered by the model's template: a play, unless it has another."""
    asked = _asked_of_chat(request, body)
    if body.stream:
        return _stream(request, body, asked, CHAT)
    with _begun(request, body, asked) as answer:
        chunks = await unless_left(_read(answer), request.receive)
        choices = [
            ChatChoice(
                index=i,
                message=ChatMessage(content=answer.model.vocabulary.decode(chunk.characters)),
                logprobs=_chat_logprobs(answer.model.vocabulary, chunk),
                finish_reason=choice.finish_reason,
            )
            for i, (choice, chunk) in enumerate(zip(answer.choices, chunks, strict=True))
        ]
        return json_response(ChatCompletion(choices=choices, usage=answer.usage, **answer.fields))


def _asked_of_chat(request: Request, body: ChatRequest) -> Asked:
    registry: Registry = request.app.state.registry
    settings: Settings = request.app.state.settings
    chat = registry.get(body.model).chat
    messages = [(message.role, message.name, str(message.content)) for message in body.messages]
    prompt = chat.render(messages, open_ended=body.continues)
    stop = body.stop if body.ignore_eos else [*chat.stop, *body.stop]
    limit = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    most = body.max_completion_tokens or body.max_tokens or min(MOST_OF_A_REPLY, settings.max_num_generate)
    logprobs = body.top_logprobs if body.logprobs else None
    return Asked("chatcmpl", [prompt], most, stop, logprobs, body.on_unknown, "messages", limit)


def _stream(request: Request, body: Sampled, asked: Asked, form: ChunkForm) -> Response:
    with ExitStack() as stack:
        answer = stack.enter_context(_begun(request, body, asked))
        return EventStream(_events(answer, form), answer.wake, stack.pop_all())


@router.get("/models", responses=error_responses(503))
async def models(registry: CurrentRegistry) -> ServedModels:
    """The models that are served."""
    return ServedModels(data=[_served(model) for model in registry.models])


@router.get("/models/{name}", responses=error_responses(400, 404, 503))
async def model(name: str, registry: CurrentRegistry) -> ServedModel:
    """One of them."""
    return _served(registry.get(name))


def _served(model: Model) -> ServedModel:
    name, created = model.config.name, datetime.fromisoformat(model.config.created)
    return ServedModel(id=name, root=name, created=int(created.timestamp()))


async def _read(answer: Answer) -> list[Chunk]:
    """Every choice's characters. Raises what ended one of them."""
    return await asyncio.gather(*(choice.reader.read_all() for choice in answer.choices))


async def _events(answer: Answer, form: ChunkForm) -> AsyncGenerator[bytes, None]:
    """The choices' parts as they come, then the usage if it was requested, then [DONE], whatever happens."""
    head, offsets, begun = {"object": form.object, **answer.fields}, [0] * len(answer.choices), set[int]()
    work, body = answer.work, answer.body
    work.streamed = 0

    def part(*choices: dict[str, Any]) -> bytes:
        counted: dict[str, Any] = {}
        if body.include_usage:
            every = body.continuous_usage or not choices
            counted = {"usage": answer.usage_of(sum(offsets)).model_dump() if every else None}
        return event(json.dumps({**head, "choices": choices, **counted}, ensure_ascii=False))

    try:
        async with aclosing(_merged(answer)) as chunks:
            async for i, chunk, ended in chunks:
                if not chunk.characters and not ended:
                    yield COMMENT
                    continue
                # As OpenAI does: the role alone, then texts, then the reason alone, for clients ignore any text beside these two.
                parts = [part(_without_text(i, form.opening))] if i not in begun and form.opening else []
                if chunk.characters or (i not in begun and answer.asked.echo):
                    offset = offsets[i]
                    offsets[i] += len(chunk.characters)
                    parts.append(part(form.part(answer, i, chunk, offset)))
                if ended:
                    parts.append(part(_without_text(i, form.closing, answer.choices[i].finish_reason)))
                begun.add(i)
                yield b"".join(parts)
                work.streamed = sum(offsets)
        if body.include_usage:
            yield part()
    except Exception as error:
        if not isinstance(error, EngineStopped):
            log.exception("stream %s failed", answer.id)
        work.cut = "error"
        yield event(to_api_error(error).body.model_dump_json())
    yield DONE


def _without_text(i: int, content: Mapping[str, Any], finish_reason: FinishReason | None = None) -> dict[str, Any]:
    return {"index": i, **content, "logprobs": None, "finish_reason": finish_reason}


async def _merged(answer: Answer) -> AsyncGenerator[tuple[int, Chunk, bool], None]:
    """(Choice, what came for it, whether that was its end) of all choices, in order of arrival. Raises what ended one."""
    arrived: asyncio.Queue[tuple[int, Chunk, bool] | Exception] = asyncio.Queue()

    async def follow(i: int, reader: Reader) -> None:
        try:
            while not reader.ended:
                arrived.put_nowait((i, await reader.read(), reader.ended))
        except Exception as error:
            arrived.put_nowait(error)

    following = [asyncio.create_task(follow(i, choice.reader)) for i, choice in enumerate(answer.choices)]
    try:
        left = len(following)
        while left:
            found = await arrived.get()
            if isinstance(found, Exception):
                raise found
            left -= found[2]
            yield found
    finally:
        for task in following:
            task.cancel()


def _completion_part(answer: Answer, i: int, chunk: Chunk, offset: int) -> dict[str, Any]:
    return _completion_choice(answer, i, chunk, offset, None).model_dump()


def _completion_choice(answer: Answer, i: int, chunk: Chunk, offset: int, finish_reason: FinishReason | None) -> CompletionChoice:
    """offset: characters of the choice that came before the chunk."""
    asked, choice, vocabulary = answer.asked, answer.choices[i], answer.model.vocabulary
    echoed = asked.echo and not offset
    text = vocabulary.decode(chunk.characters)
    logprobs = None
    if asked.logprobs is not None:
        logprobs = _completion_logprobs(vocabulary, chunk, len(choice.prompt) + offset)
        if echoed:
            logprobs = _with_prompts(logprobs, choice, vocabulary)
    return CompletionChoice(index=i, text=choice.prompt + text if echoed else text, logprobs=logprobs, finish_reason=finish_reason)


def _with_prompts(logprobs: CompletionLogprobs, choice: Choice, vocabulary: Vocabulary) -> CompletionLogprobs:
    """The prompt's before the continuation's; its first character has none, for nothing comes before it."""
    prompt = choice.generation.prompt
    parts = prompt.log_probabilities
    read = Chunk(prompt.ids[1:].tolist(), concatenated(parts) if parts else None)
    scored = _completion_logprobs(vocabulary, read, 1)
    return CompletionLogprobs(
        tokens=[choice.prompt[0], *scored.tokens, *logprobs.tokens],
        token_logprobs=[None, *scored.token_logprobs, *logprobs.token_logprobs],
        top_logprobs=[None, *scored.top_logprobs, *logprobs.top_logprobs],
        text_offset=[0, *scored.text_offset, *logprobs.text_offset],
    )


def _completion_logprobs(vocabulary: Vocabulary, chunk: Chunk, offset: int) -> CompletionLogprobs:
    """offset: of the chunk's first character in the whole text."""
    own, top = _values(vocabulary, chunk)
    tokens = [vocabulary.characters[character] for character in chunk.characters]
    return CompletionLogprobs(
        tokens=tokens,
        token_logprobs=list(own),
        top_logprobs=[dict(likeliest) | {token: value} for token, value, likeliest in zip(tokens, own, top, strict=True)],
        text_offset=list(range(offset, offset + len(tokens))),
    )


def _chat_part(answer: Answer, i: int, chunk: Chunk, offset: int) -> dict[str, Any]:  # noqa: ARG001 - as the other form
    delta = {"content": answer.model.vocabulary.decode(chunk.characters)}
    logprobs = _chat_logprobs(answer.model.vocabulary, chunk)
    return {"index": i, "delta": delta, "logprobs": logprobs and logprobs.model_dump(), "finish_reason": None}


def _chat_logprobs(vocabulary: Vocabulary, chunk: Chunk) -> ChatLogprobs | None:
    if chunk.log_probabilities is None:
        return None
    own, top = _values(vocabulary, chunk)

    def named(token: str, value: float) -> dict[str, Any]:
        return {"token": token, "logprob": value, "bytes": list(token.encode())}

    content = [
        TokenLogprob(
            **named(vocabulary.characters[character], value), top_logprobs=[TopLogprob(**named(*one)) for one in likeliest]
        )
        for character, value, likeliest in zip(chunk.characters, own, top, strict=True)
    ]
    return ChatLogprobs(content=content)


def _values(vocabulary: Vocabulary, chunk: Chunk) -> tuple[list[float], list[list[tuple[str, float]]]]:
    """(Log-probability of each character, the likeliest at its place with theirs)."""
    p = chunk.log_probabilities
    if p is None:
        return [], []
    named = np.array(vocabulary.characters, object)[p.top_ids].tolist()
    return p.chosen.tolist(), [list(zip(*pair, strict=True)) for pair in zip(named, p.top_values.tolist(), strict=True)]


COMPLETION = ChunkForm("text_completion", _completion_part, None, {"text": ""})
CHAT = ChunkForm("chat.completion.chunk", _chat_part, {"delta": {"role": "assistant", "content": ""}}, {"delta": {}})
