"""POST /generate: a start string continued, as one JSON answer or as server-sent events."""

import asyncio

from fastapi import APIRouter, Request, Response

from service.api.errors import documented
from service.api.running import Taken
from service.api.schemas import GenerateResponse
from service.api.streaming import EventStream
from service.generation.request import Generation

router = APIRouter(tags=["generation"])

STREAM = {"text/event-stream": {"schema": {"type": "string", "description": "text events, then `done` or `error`"}}}


@router.post("/generate", response_model=GenerateResponse, responses={200: {"content": STREAM}, **documented(404, 422, 429, 503)})
async def generate(running: Taken, request: Request) -> GenerateResponse | Response:
    """Continues start_string, drawing each next character from the model's distribution at the temperature."""
    if running.request.stream or "text/event-stream" in request.headers.get("accept", ""):
        return EventStream(running)
    characters = await _all(running.generation, request)
    if characters is None:
        return Response(status_code=499)  # the client has left: nobody reads this
    text = running.request.start_string + running.model.vocabulary.decode(characters)
    return GenerateResponse(text=text, **running.done().model_dump())


async def _all(generation: Generation, request: Request) -> list[int] | None:
    """Every generated id, or None as soon as the client has left. Raises what ended the generation."""
    reading, leaving = asyncio.create_task(_read_all(generation)), asyncio.create_task(_left(request))
    try:
        await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
        return await reading if reading.done() else None
    finally:
        reading.cancel()
        leaving.cancel()


async def _read_all(generation: Generation) -> list[int]:
    characters: list[int] = []
    while new := (await generation.read()).characters:
        characters += new
    return characters


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
