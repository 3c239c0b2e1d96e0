"""/generate: a start string continued, as one JSON answer or as server-sent events."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from service.api.errors import ClientLeft, documented
from service.api.pacing import Reader
from service.api.running import Running, Taken, TakenByQuery, logprobs_of
from service.api.schemas import GenerateResponse
from service.api.streaming import EventStream, described, events_of, left
from service.generation.request import Piece, concatenated

T = TypeVar("T")
router = APIRouter(tags=["generation"])

STREAM = described('texts as `{"text"}`, then `done` with the answer less its text, or `error` with the error')
ENDED = {"description": "the stream of Last-Event-ID had ended: nothing is left to send, and an EventSource asks no more"}
ERRORS = documented(404, 410, 413, 422, 503)


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
    piece = await unless_left(read_all(running.reader), request)
    vocabulary, done = running.model.vocabulary, running.done()
    text = vocabulary.decode(piece.characters)
    found = piece.log_probabilities
    return GenerateResponse.model_validate(
        {
            **done.model_dump(),
            "text": text if running.request.echo is False else running.start_string + text,
            "logprobs": found and logprobs_of(vocabulary, piece.characters, found),
        }
    )


@router.get("/generate", response_class=Response, responses={200: {"content": STREAM}, 204: ENDED, **ERRORS})
async def generate_by_query(running: TakenByQuery) -> Response:
    """The same as a stream, for a browser's EventSource and for curl without a body."""
    return _stream(running)


def _stream(running: Running) -> Response:
    return EventStream(events_of(running), running.generation.wake)


async def unless_left(work: Coroutine[Any, Any, T], request: Request) -> T:
    """What `work` gives. Raises what it raises, or ClientLeft as soon as the client has."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(left(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return await working
    finally:
        working.cancel()
        leaving.cancel()


async def read_all(reader: Reader) -> Piece:
    """All of a generation. Raises what ended it."""
    characters: list[int] = []
    probabilities = []
    while not reader.ended:
        piece = await reader.read()
        characters += piece.characters
        if piece.log_probabilities is not None:
            probabilities.append(piece.log_probabilities)
    return Piece(characters, concatenated(probabilities) if probabilities else None)
