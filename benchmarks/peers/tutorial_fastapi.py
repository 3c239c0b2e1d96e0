"""python -m benchmarks.peers.tutorial_fastapi: the tutorial's classic loop behind plain FastAPI, one character an event.

One stateful model serves one request at a time, so a lock keeps the others waiting, first come first served.
"""

import argparse
import asyncio
import json
import os
from collections.abc import AsyncIterator
from itertools import islice

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import StreamingResponse

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks.measure import START
from benchmarks.peers.tutorial import Tutorial
from benchmarks.systems import shipped
from trainer.vocabulary import Vocabulary


class GenerateRequest(BaseModel):
    start_string: str
    temperature: float = 1.0
    num_generate: int = 1000


def create_app() -> FastAPI:
    version = shipped()
    tutorial, vocabulary = Tutorial(version.config, version.tensors), Vocabulary(version.config.vocabulary)
    list(islice(tutorial.characters(START), 2))  # the first call builds
    app, one_at_a_time = FastAPI(), asyncio.Lock()

    @app.get("/readyz")
    async def readyz() -> None:
        return

    @app.post("/generate")
    async def generate(request: GenerateRequest) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            async with one_at_a_time:
                characters = tutorial.characters(request.start_string, request.temperature)
                async for character in iterate_in_threadpool(islice(characters, request.num_generate)):
                    yield f"data: {json.dumps({'text': vocabulary.characters[character]})}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.tutorial_fastapi")
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(create_app(), host="127.0.0.1", port=parser.parse_args().port, log_level="warning")


if __name__ == "__main__":
    main()
