"""/generate: a start string continued, as one JSON answer or as server-sent events."""

from fastapi import APIRouter, Request, Response

from service.api.errors import documented
from service.api.running import Running, Taken, TakenByQuery, logprobs_of
from service.api.schemas import GenerateResponse
from service.api.streaming import EventStream, described, events_of, unless_left

router = APIRouter(tags=["generation"])

STREAM = described('texts as `{"text"}`, then `done` with the answer less its text, or `error` with the error')
ENDED = {"description": "the stream of Last-Event-ID had ended: nothing is left to send, and an EventSource asks no more"}
ERRORS = documented(404, 410, 413, 415, 422, 503)


@router.post(
    "/generate",
    response_model=GenerateResponse,
    response_model_exclude_none=True,
    responses={200: {"content": STREAM}, 204: ENDED, **ERRORS},
)
async def generate(running: Taken, request: Request) -> GenerateResponse | Response:
    """Continues start_string, drawing each next character from the model's distribution at the temperature."""
    if running.streams:
        return _stream(running)
    piece = await unless_left(running.reader.read_all(), request.receive)
    vocabulary, done = running.model.vocabulary, running.done()
    text = vocabulary.decode(piece.characters)
    found = piece.log_probabilities
    return GenerateResponse.model_validate(
        {
            **done.model_dump(),
            "text": text if running.body.echo is False else running.start_string + text,
            "logprobs": found and logprobs_of(vocabulary, piece.characters, found),
        }
    )


@router.get("/generate", response_class=Response, responses={200: {"content": STREAM}, 204: ENDED, **ERRORS})
async def generate_by_query(running: TakenByQuery) -> Response:
    """The same as a stream, for a browser's EventSource and for curl without a body."""
    return _stream(running)


def _stream(running: Running) -> Response:
    return EventStream(events_of(running), running.generation.wake)
