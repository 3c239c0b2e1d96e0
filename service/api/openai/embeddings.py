"""/v1/embeddings: texts as vectors. The vector of a text is the network's state after its last character, with length 1."""

import base64
import math
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from service.api.body import JsonBody
from service.api.body_route import BodyRoute, json_response
from service.api.errors import ApiError, error_responses
from service.api.fields import ModelName, OnUnknown, RequestBody, Unused
from service.api.job import Job
from service.api.openai.answers import Embedding, Embeddings, EmbeddingUsage
from service.api.openai.requests import Prompts, listed
from service.api.validation import read_prompt
from service.generation.backend import STATES, State
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from service.registry import Model
from service.settings import Settings

router = APIRouter(prefix="/v1", tags=["openai"], route_class=BodyRoute)

AFTER_TEXT = 0  # any id: the state of a prompt is that before its last character


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
    settings: Settings = request.app.state.settings
    model: Model = request.app.state.registry.get(body.model)
    inputs = listed(body.input)
    _check(body, len(inputs), model)
    texts = [read_prompt(given, body.on_unknown, "input", model, settings) for given in inputs]
    prompts = [Prompt(np.append(ids, np.int32(AFTER_TEXT)), shared=True) for _, ids in texts]
    generations = [Generation(prompt, 0, Sampling(), seed=0) for prompt in prompts]
    with Job(request, model, [(text, one) for (text, _), one in zip(texts, generations, strict=True)]).submit() as job:
        await job.collect()
    vectors = [embedding(model, prompt, body.dimensions) for prompt in prompts]
    data = [Embedding(index=i, embedding=_encoded(vector, body.encoding_format)) for i, vector in enumerate(vectors)]
    read = sum(len(ids) for _, ids in texts)
    return json_response(
        Embeddings(data=data, model=model.config.name, usage=EmbeddingUsage(prompt_tokens=read, total_tokens=read))
    )


def _check(body: EmbeddingRequest, count: int, model: Model) -> None:
    """Raises ApiError for too many texts or dimensions."""
    if count > model.engine.capacity:
        message = f"input: {count:,} texts exceed this server's limit of {model.engine.capacity:,}"
        raise ApiError(422, "too_many", message, param="input")
    if body.dimensions is not None and body.dimensions > model.config.units:
        message = f"dimensions: this model has {model.config.units:,}"
        raise ApiError(422, "invalid_value", message, param="dimensions")


def embedding(model: Model, prompt: Prompt, dimensions: int | None) -> NDArray[np.float32]:
    """The first components of the last layer's state after a prompt that has been read, scaled to length 1: [dimensions]."""
    assert prompt.state is not None, "a shared prompt keeps its state"  # noqa: S101
    return scaled_to_1(_hidden(model, prompt.state)[:dimensions])


def _hidden(model: Model, state: State) -> NDArray[np.float32]:
    """h of the last layer: [units]. An LSTM keeps c after it."""
    hidden: NDArray[np.float32] = state[-STATES[model.config.cell]]
    return hidden


def scaled_to_1(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vector divided by its length. The sum is exact, and so the same on every machine."""
    length = math.sqrt(math.fsum((values.astype(np.float64) ** 2).tolist()))
    return values if length == 0 else (values.astype(np.float64) / length).astype(np.float32)


def _encoded(vector: NDArray[np.float32], encoding_format: str) -> list[float] | str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding_format == "base64" else vector.tolist()
