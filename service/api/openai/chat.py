"""/v1/chat/completions: writes what the assistant says next, or the calls of tools that it makes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.accept import CompletionParams, accept_chat
from service.api.body_route import BodyRoute, JsonBody, build_answer, json_response
from service.api.errors import error_responses
from service.api.events import stream_content
from service.api.job import Job
from service.api.openai.answers import ChatChoice, ChatCompletion, ChatLogprobs, ChatMessage, FunctionCall, ToolCall
from service.api.openai.logprobs import token_logprobs
from service.api.openai.requests import ChatRequest
from service.api.openai.stream import STREAM, Answer, AnswerStream, Choice
from service.api.sse import EventStream
from service.conversation import Arguments, CallBegun, Reply, Text, calls_in
from service.generation.output_queue import Chunk
from trainer.vocabulary import Vocabulary

router = APIRouter(prefix="/v1", tags=["openai"], route_class=BodyRoute)


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={200: {"content": stream_content(STREAM)}, **error_responses(400, 404, 413, 415, 503)},
)
async def chat(request: Request, body: JsonBody[ChatRequest]) -> Response:
    """Generates the assistant's next message. The model's chat template formats the messages; without one they become a play."""
    params = CompletionParams(
        model=body.model,
        max_tokens=body.max_completion_tokens or body.max_tokens or 0,
        sampling=body,
        logit_bias=body.logit_bias,
        n=body.n,
        stop=body.stop,
        min_tokens=body.min_tokens,
        seed=body.seed,
        logprobs=body.top_logprobs if body.logprobs else None,
        pace=body.pace,
        on_unknown=body.on_unknown,
        max_tokens_field="max_tokens" if body.max_completion_tokens is None else "max_completion_tokens",
    )
    job = (await accept_chat(request, body.conversation, params, past_turn=body.ignore_eos)).submit()
    answer = Answer("chatcmpl", job, "function_call" if body.is_legacy else "tool_calls")
    if body.stream:
        parts = partial(_parts, body, job, [job.reply(i) for i in range(body.n)])
        opening = {"delta": {"role": "assistant", "content": None if job.calls else ""}}
        return EventStream(job, AnswerStream(answer, body.usage, "chat.completion.chunk", parts, opening, {"delta": {}}))
    with job:
        chunks = await job.collect()
        return await build_answer(lambda: _whole(body, job, answer, chunks), params.logprobs)


def _whole(body: ChatRequest, job: Job, answer: Answer, chunks: Sequence[Chunk]) -> Response:
    choices = [
        ChatChoice(
            index=i,
            message=_message(job.reply(i), job.vocabulary.decode(chunk.characters), legacy=body.is_legacy),
            logprobs=_logprobs(job.vocabulary, chunk),
            finish_reason=answer.finish_reason(i),
        )
        for i, chunk in enumerate(chunks)
    ]
    return json_response(ChatCompletion(choices=choices, usage=answer.usage, **answer.fields))


def _message(reply: Reply, text: str, *, legacy: bool) -> ChatMessage:
    if not reply.calls:
        return ChatMessage(content=text)
    found = calls_in(reply.read(text))
    calls = [ToolCall(id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments)) for call in found]
    if legacy and calls:
        return ChatMessage(content=None, function_call=calls[0].function)
    return ChatMessage(content=None, tool_calls=calls)


def _parts(body: ChatRequest, job: Job, replies: list[Reply], i: int, chunk: Chunk, _: int) -> list[Choice]:
    """The new parts of a choice. Log-probabilities stand beside the first of them, or alone if there is none."""
    logprobs = _logprobs(job.vocabulary, chunk)
    choices: list[Choice] = []
    for part in replies[i].read(job.vocabulary.decode(chunk.characters)):
        match part:
            case Text(text):
                delta: dict[str, Any] = {"content": text}
            case CallBegun(index, call_id, name):
                begun = {"name": name, "arguments": ""}
                call = {"index": index, "id": call_id, "type": "function", "function": begun}
                delta = {"function_call": begun} if body.is_legacy else {"tool_calls": [call]}
            case Arguments(index, text):
                more = {"arguments": text}
                delta = {"function_call": more} if body.is_legacy else {"tool_calls": [{"index": index, "function": more}]}
        choices.append({"index": i, "delta": delta, "logprobs": None, "finish_reason": None})
    if logprobs and logprobs.content:
        choices = choices or [{"index": i, "delta": {}, "finish_reason": None}]  # such as in the middle of a tool's name
        choices[0]["logprobs"] = logprobs.model_dump()
    return choices


def _logprobs(vocabulary: Vocabulary, chunk: Chunk) -> ChatLogprobs | None:
    content = token_logprobs(vocabulary, chunk)
    return None if content is None else ChatLogprobs(content=content)
