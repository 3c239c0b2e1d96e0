"""/v1/responses: writes what the assistant says next, or the calls of tools that it makes. Nothing is stored."""

from fastapi import APIRouter, Request, Response

from service.api.accept import CompletionParams, accept_chat, count_chat
from service.api.body_route import JSON_TYPE, BodyRoute, JsonBody, build_answer, json_response
from service.api.errors import error_responses
from service.api.events import stream_content
from service.api.openai.responses.answer import InputTokens, ResponsesAnswer
from service.api.openai.responses.request import ResponsesRequest
from service.api.openai.responses.stream import ResponsesStream
from service.api.sse import EventStream

router = APIRouter(prefix="/v1", tags=["openai"], route_class=BodyRoute)


@router.post(
    "/responses",
    response_model=ResponsesAnswer,
    responses={
        200: {"content": stream_content("the answer in parts; `type`, which is also the event's name, says what an event tells")},
        **error_responses(400, 404, 413, 415, 503),
    },
)
async def respond(request: Request, body: JsonBody[ResponsesRequest]) -> Response:
    """Generates the assistant's next message, as /v1/chat/completions does. Nothing is stored."""
    params = CompletionParams(
        model=body.model,
        max_tokens=body.max_output_tokens or 0,
        sampling=body,
        stop=body.stop,
        seed=body.seed,
        logprobs=body.logprobs,
        pace=body.pace,
        on_unknown=body.on_unknown,
        prompt_field="input",
        max_tokens_field="max_output_tokens",
    )
    job = (await accept_chat(request, body.as_conversation(), params)).submit()
    answer = ResponsesStream(job, body.echoed)
    if body.stream:
        return EventStream(job, answer)
    with job:
        (chunk,) = await job.collect()
        return await build_answer(lambda: Response(answer.whole(chunk), media_type=JSON_TYPE), body.logprobs)


@router.post("/responses/input_tokens", response_model=InputTokens, responses=error_responses(400, 404, 413, 415, 503))
async def count_input(request: Request, body: JsonBody[ResponsesRequest]) -> Response:
    """Counts the characters that the model would read."""
    count = count_chat(request, body.model, body.as_conversation(), body.on_unknown, "input")
    return json_response(InputTokens(input_tokens=count))
