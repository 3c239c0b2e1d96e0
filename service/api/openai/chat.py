"""/v1/chat/completions: writes what the assistant says next."""

from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.body import JsonBody
from service.api.body_route import BodyRoute, json_response
from service.api.errors import error_responses
from service.api.events import stream_content
from service.api.logprobs import named_logprobs
from service.api.openai.accept import STREAM, Answer, AnswerStream, ChunkForm, CompletionParams, accept
from service.api.openai.requests import ChatRequest
from service.api.openai.responses import ChatChoice, ChatCompletion, ChatLogprobs, ChatMessage, TokenLogprob, TopLogprob
from service.api.sse import EventStream
from service.generation.output_queue import Chunk
from service.registry import Registry
from service.settings import Settings
from trainer.vocabulary import Vocabulary

router = APIRouter(prefix="/v1", tags=["openai"], route_class=BodyRoute)

MAX_REPLY = 1000  # characters, where the request sets no limit


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={200: {"content": stream_content(STREAM)}, **error_responses(400, 404, 413, 415, 503)},
)
async def chat(request: Request, body: JsonBody[ChatRequest]) -> Response:
    """Writes what the assistant says next. The model's chat template, or else that of a play, makes a text of the messages."""
    answer = accept(request, body, _params(request, body))
    if body.stream:
        return EventStream(answer.job.submit(), AnswerStream(answer, CHUNKS))
    vocabulary = answer.job.model.vocabulary
    with answer.job.submit() as job:
        choices = [
            ChatChoice(
                index=i,
                message=ChatMessage(content=vocabulary.decode(chunk.characters)),
                logprobs=_logprobs(vocabulary, chunk),
                finish_reason=answer.finish_reason(i),
            )
            for i, chunk in enumerate(await job.collect())
        ]
        return json_response(ChatCompletion(choices=choices, usage=answer.usage, **answer.fields))


def _params(request: Request, body: ChatRequest) -> CompletionParams:
    registry: Registry = request.app.state.registry
    settings: Settings = request.app.state.settings
    template = registry.get(body.model).chat
    messages = [(message.role, message.name, str(message.content)) for message in body.messages]
    return CompletionParams(
        kind="chatcmpl",
        prompts=[template.render(messages, open_ended=body.continues)],
        max_tokens=body.max_completion_tokens or body.max_tokens or min(MAX_REPLY, settings.max_num_generate),
        stop=body.stop if body.ignore_eos else [*template.stop, *body.stop],
        logprobs=body.top_logprobs if body.logprobs else None,
        on_unknown=body.on_unknown,
        prompt_field="messages",
        max_tokens_field="max_tokens" if body.max_completion_tokens is None else "max_completion_tokens",
    )


def _part(answer: Answer, i: int, chunk: Chunk, offset: int) -> dict[str, Any]:  # noqa: ARG001 - as the other form
    vocabulary = answer.job.model.vocabulary
    logprobs = _logprobs(vocabulary, chunk)
    delta = {"content": vocabulary.decode(chunk.characters)}
    return {"index": i, "delta": delta, "logprobs": logprobs and logprobs.model_dump(), "finish_reason": None}


def _logprobs(vocabulary: Vocabulary, chunk: Chunk) -> ChatLogprobs | None:
    if chunk.log_probabilities is None:
        return None
    own, top = named_logprobs(vocabulary, chunk.log_probabilities)

    def named(token: str, value: float) -> dict[str, Any]:
        return {"token": token, "logprob": value, "bytes": list(token.encode())}

    content = [
        TokenLogprob(
            **named(vocabulary.characters[character], value), top_logprobs=[TopLogprob(**named(*one)) for one in likeliest]
        )
        for character, value, likeliest in zip(chunk.characters, own, top, strict=True)
    ]
    return ChatLogprobs(content=content)


CHUNKS = ChunkForm("chat.completion.chunk", _part, {"delta": {"role": "assistant", "content": ""}}, {"delta": {}})
