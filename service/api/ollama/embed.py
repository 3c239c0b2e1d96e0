"""/api/embed and its predecessor /api/embeddings: texts as vectors."""

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from service.api.body_route import AnyTypeRoute, JsonBody, json_response
from service.api.embedding import embed_texts
from service.api.errors import OllamaErrorBody, error_responses
from service.api.fields import RequestBody, Unused
from service.api.ollama.answer import nanoseconds
from service.api.ollama.requests import Name
from service.api.openai.requests import MAX_PROMPTS

router = APIRouter(route_class=AnyTypeRoute)

ERRORS = error_responses(400, 404, 413, 415, 503, body=OllamaErrorBody)


class EmbeddingFields(RequestBody):
    model: Name = None
    keep_alive: Unused = None
    options: Unused = None
    truncate: bool | None = Field(None, description="Whether a text that is too long is cut at its end, which is the default.")


class EmbedRequest(EmbeddingFields):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "shakespeare", "input": "Who art thou?"}]})

    input: Annotated[
        list[str],
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given, json_schema_input_type=str | list[str]),
        Field(min_length=1, max_length=MAX_PROMPTS),
    ]
    dimensions: Annotated[int, Field(ge=1)] | None = None


class EmbeddingsRequest(EmbeddingFields):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "shakespeare", "prompt": "Who art thou?"}]})

    prompt: str


class EmbedResponse(BaseModel):
    """Durations are in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsResponse(BaseModel):
    embedding: list[float]


@router.post("/embed", response_model=EmbedResponse, responses=ERRORS)
async def embed(request: Request, body: JsonBody[EmbedRequest]) -> Response:
    """Reads each text and returns the state of the network's last layer as a vector of length 1."""
    texts = [_truncated(text, body, request) for text in body.input]
    vectors, job = await embed_texts(request, body.model, texts, dimensions=body.dimensions)
    first, now = job.completions[0].generation, time.perf_counter()

    def answer() -> Response:
        return json_response(
            EmbedResponse(
                model=job.model.config.name,
                embeddings=[vector.tolist() for vector in vectors],
                total_duration=nanoseconds(now - first.arrived_at),
                load_duration=nanoseconds(first.times(now).queue),
                prompt_eval_count=job.num_prompt,
            )
        )

    return await asyncio.to_thread(answer)  # as in service.api.openai.embeddings


@router.post("/embeddings", response_model=EmbeddingsResponse, responses=ERRORS)
async def embeddings(request: Request, body: JsonBody[EmbeddingsRequest]) -> Response:
    """Reads a text, as /api/embed does."""
    (vector,), _ = await embed_texts(request, body.model, [_truncated(body.prompt, body, request)], field="prompt")
    return json_response(EmbeddingsResponse(embedding=vector.tolist()))


def _truncated(text: str, body: EmbeddingFields, request: Request) -> str:
    return text if body.truncate is False else text[: request.app.state.settings.max_start_string]
