"""Texts as vectors. The vector of a text is the network's state after its last character, with length 1."""

import asyncio
import math
from collections.abc import Sequence

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from service.api.errors import invalid_field
from service.api.fields import OnUnknown
from service.api.job import Job
from service.api.validation import read_prompt
from service.generation.backend import STATES
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from service.registry import Model

PLACEHOLDER = 0  # Prompt.state excludes the last character, so one is appended; its id does not matter


async def embed_texts(
    request: Request,
    model: Model,
    given: Sequence[str | list[int]],
    *,
    dimensions: int | None = None,
    on_unknown: OnUnknown | None = None,
    field: str = "input",
) -> tuple[list[NDArray[np.float32]], Job]:
    """(The vector of each text or list of tokens, the job that read them). dimensions: of the vectors, if they are cut.

    field: errors name it. Raises ApiError, QueueFull, EngineStopped or ClientDisconnect.
    """
    _check(model, len(given), dimensions, field)
    texts = [read_prompt(one, on_unknown, field, model, request.app.state.settings) for one in given]
    prompts = [Prompt(np.append(ids, np.int32(PLACEHOLDER)), shared=True, padding=1) for _, ids in texts]
    generations = [Generation(prompt, 0, Sampling(), seed=0) for prompt in prompts]
    completions = [(text, one) for (text, _), one in zip(texts, generations, strict=True)]
    with Job(request, model, completions).submit() as job:
        await job.collect()
    return await asyncio.to_thread(lambda: [_embedding(model, prompt, dimensions) for prompt in prompts]), job


def _check(model: Model, count: int, dimensions: int | None, field: str) -> None:
    """Raises ApiError for too many texts or dimensions."""
    if count > model.engine.capacity:
        raise invalid_field(field, f"{count:,} texts exceed this server's limit of {model.engine.capacity:,}", "too_many")
    if dimensions is not None and dimensions > model.config.units:
        raise invalid_field("dimensions", f"at most {model.config.units:,}, the size of this model's vectors")


def _embedding(model: Model, prompt: Prompt, dimensions: int | None) -> NDArray[np.float32]:
    """The first components of the last layer's state after a prompt that has been read, scaled to length 1: [dimensions]."""
    assert prompt.state is not None, "a shared prompt keeps its state"  # noqa: S101
    hidden: NDArray[np.float32] = prompt.state[-STATES[model.config.cell]]  # h of the last layer: an LSTM has c after it
    return _scaled_to_1(hidden[:dimensions])


def _scaled_to_1(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vector divided by its length. The sum is exact, and so the same on every machine."""
    length = math.sqrt(math.fsum((values.astype(np.float64) ** 2).tolist()))
    return values if length == 0 else (values.astype(np.float64) / length).astype(np.float32)
