"""/generate: a start string continued, as one JSON answer or as server-sent events."""

from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.api.body import JsonBody
from service.api.body_route import BodyRoute, json_response
from service.api.errors import error_responses
from service.api.running import LAST_EVENT_ID, Running, logprobs_of, prefers_stream, running
from service.api.schemas import CharacterLogprob, GenerateQuery, GenerateRequest, GenerateResponse
from service.api.streaming import EventStream, described, events_of, unless_left

router = APIRouter(tags=["generation"], route_class=BodyRoute)

STREAM = described('texts as `{"text"}`, then `done` with the answer less its text, or `error` with the error')
ENDED = {"description": "the stream of Last-Event-ID had ended: nothing is left to send, and an EventSource asks no more"}
ERRORS = error_responses(404, 410, 413, 415, 422, 503)


@router.post(
    "/generate",
    response_model=GenerateResponse,
    responses={200: {"content": STREAM}, 204: ENDED, **ERRORS},
    openapi_extra=LAST_EVENT_ID,
)
async def generate(request: Request, body: JsonBody[GenerateRequest]) -> Response:
    """Continues start_string, drawing each next character from the model's distribution at the temperature."""
    if prefers_stream(request) if body.stream is None else body.stream:
        return _stream(request, body)
    with running(request, body, streams=False) as job:
        return json_response(await _whole(job, request), exclude_none=True)


@router.get(
    "/generate", response_class=Response, responses={200: {"content": STREAM}, 204: ENDED, **ERRORS}, openapi_extra=LAST_EVENT_ID
)
async def generate_by_query(request: Request, query: Annotated[GenerateQuery, Query()]) -> Response:
    """The same as a stream, for a browser's EventSource and for curl without a body."""
    return _stream(request, query)


async def _whole(job: Running, request: Request) -> GenerateResponse:
    chunk = await unless_left(job.reader.read_all(), request.receive)
    vocabulary, found = job.model.vocabulary, chunk.log_probabilities
    text = vocabulary.decode(chunk.characters)
    return GenerateResponse(
        **dict(job.done()),
        text=text if job.body.echo is False else job.start_string + text,
        logprobs=found and [CharacterLogprob(**one) for one in logprobs_of(vocabulary, chunk.characters, found)],
    )


def _stream(request: Request, body: GenerateRequest) -> Response:
    with ExitStack() as stack:
        job = stack.enter_context(running(request, body, streams=True))
        return EventStream(events_of(job), job.generation.output.wake, stack.pop_all())
