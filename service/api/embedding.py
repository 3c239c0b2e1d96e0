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
    name: str | None,
    given: Sequence[str | list[int]],
    *,
    dimensions: int | None = None,
    on_unknown: OnUnknown | None = None,
    field: str = "input",
) -> tuple[list[NDArray[np.float32]], Job]:
    """(The vector of each text or list of tokens, the job that read them). dimensions: of the vectors, if they are cut.

    name: of the model. field: errors name it. Raises ApiError, ClientDisconnect, or what the registry and the engine raise.
    """
    model: Model = request.app.state.registry.get(name)
    if len(given) > model.engine.capacity:
        raise invalid_field(field, f"{len(given):,} texts exceed this server's limit of {model.engine.capacity:,}", "too_many")
    if dimensions is not None and dimensions > model.config.units:
        raise invalid_field("dimensions", f"at most {model.config.units:,}, the size of this model's vectors")
    limit = request.app.state.settings.max_start_string
    texts = [read_prompt(one, on_unknown, field, model, limit) for one in given]
    prompts = [Prompt(np.append(ids, np.int32(PLACEHOLDER)), shared=True, padding=1) for _, ids in texts]
    generations = [Generation(prompt, 0, Sampling(), seed=0) for prompt in prompts]
    completions = [(text, one) for (text, _), one in zip(texts, generations, strict=True)]
    # No more than have slots, so that one request for many texts does not fill the queue.
    with Job(request, model, completions, at_once=model.engine.slots).submit() as job:
        await job.collect()
    return await asyncio.to_thread(lambda: [_embedding(model, prompt, dimensions) for prompt in prompts]), job


def _embedding(model: Model, prompt: Prompt, dimensions: int | None) -> NDArray[np.float32]:
    """The first components of the last layer's state after a prompt that has been read, scaled to length 1: [dimensions].

    The sum in it is exact, and so the same on every machine.
    """
    assert prompt.state is not None, "a shared prompt keeps its state"  # noqa: S101
    hidden = prompt.state[-STATES[model.config.cell]][:dimensions].astype(np.float64)  # h of the last layer: an LSTM has c after it
    length = math.sqrt(math.fsum((hidden**2).tolist()))
    vector: NDArray[np.float32] = (hidden / (length or 1)).astype(np.float32)
    return vector
