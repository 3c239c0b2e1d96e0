"""/v1/messages: writes what the assistant says next, or the calls of tools that it makes, as Anthropic does."""

from fastapi import APIRouter, Request, Response

from service.api.accept import CompletionParams, accept_chat, count_chat
from service.api.anthropic.answer import STREAM, Answer, MessageResponse, MessageStream, TokenCount
from service.api.anthropic.requests import CountRequest, MessageRequest
from service.api.body_route import JSON_TYPE, BodyRoute, JsonBody, json_response
from service.api.errors import NO_THREADS, AnthropicErrorBody, ApiError, error_responses
from service.api.events import stream_content
from service.api.sse import EventStream

router = APIRouter(
    prefix="/v1/messages",
    tags=["anthropic"],
    route_class=BodyRoute,
    responses=error_responses(401, 421, 429, 500, body=AnthropicErrorBody),
)

ERRORS = error_responses(400, 404, 413, 415, 503, body=AnthropicErrorBody)


@router.post("", response_model=MessageResponse, responses={200: {"content": stream_content(STREAM)}, **ERRORS})
async def create(request: Request, body: JsonBody[MessageRequest]) -> Response:
    """Generates the assistant's next message. The model's chat template formats the messages; without one they become a play."""
    if body.thread is not None:
        raise ApiError(400, NO_THREADS, "thread: the server stores no conversations; send all messages", param="thread")
    params = CompletionParams(
        model=body.model,
        max_tokens=body.max_tokens,
        sampling=body,
        stop=body.stop_sequences,
        seed=body.seed,
        pace=body.pace,
        on_unknown=body.on_unknown,
    )
    job = (await accept_chat(request, body.conversation, params)).submit()
    answer = Answer(job, body.stop_sequences)
    if body.stream:
        return EventStream(job, MessageStream(answer))
    with job:
        (chunk,) = await job.collect()
        return Response(answer.whole(job.vocabulary.decode(chunk.characters)), media_type=JSON_TYPE)


@router.post("/count_tokens", response_model=TokenCount, responses=ERRORS)
async def count_tokens(request: Request, body: JsonBody[CountRequest]) -> Response:
    """Counts the characters that the model would read."""
    return json_response(TokenCount(input_tokens=count_chat(request, body.model, body.conversation, body.on_unknown)))
