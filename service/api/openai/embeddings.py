"""/v1/embeddings: texts as vectors."""

import asyncio
import base64
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from service.api.body_route import BodyRoute, JsonBody, json_response
from service.api.embedding import embed_texts
from service.api.errors import error_responses
from service.api.fields import ModelName, OnUnknown, RequestBody, Unused
from service.api.openai.answers import Embedding, Embeddings, EmbeddingUsage
from service.api.openai.requests import Prompts, listed

router = APIRouter(prefix="/v1", tags=["openai"], route_class=BodyRoute)


class EmbeddingRequest(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "shakespeare", "input": "Who art thou?"}]})

    input: Prompts = Field(description="Text or tokens, or a list of either. A token is the id of a character.")
    model: ModelName = None
    dimensions: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Return only this many components, the first ones, scaled to length 1.",
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: the components as little-endian 32-bit floats, in base64."
    )
    on_unknown: OnUnknown | None = Field(
        None, description="How to treat characters outside the model's vocabulary, as in /v1/completions."
    )
    user: Unused = None
    priority: Unused = None
    add_special_tokens: Unused = None


@router.post("/embeddings", response_model=Embeddings, responses=error_responses(400, 404, 413, 415, 503))
async def embed(request: Request, body: JsonBody[EmbeddingRequest]) -> Response:
    """Reads each text and returns the state of the network's last layer as a vector of length 1, the same on every machine."""
    given = listed(body.input)
    vectors, job = await embed_texts(request, body.model, given, dimensions=body.dimensions, on_unknown=body.on_unknown)
    usage = EmbeddingUsage(prompt_tokens=job.num_prompt, total_tokens=job.num_prompt)
    # A million numbers take half a second to write. In a thread, they do not hold up the event loop.
    return await asyncio.to_thread(_answer, job.model.config.name, vectors, body.encoding_format, usage)


def _answer(model: str, vectors: list[NDArray[np.float32]], encoding_format: str, usage: EmbeddingUsage) -> Response:
    data = [Embedding(index=i, embedding=_encoded(vector, encoding_format)) for i, vector in enumerate(vectors)]
    return json_response(Embeddings(data=data, model=model, usage=usage))


def _encoded(vector: NDArray[np.float32], encoding_format: str) -> list[float] | str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding_format == "base64" else vector.tolist()
