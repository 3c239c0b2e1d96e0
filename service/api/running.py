"""A request that has been taken: its generation, and what is said of it when it has ended."""

import secrets
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from fastapi import Depends
from numpy.typing import NDArray

from service.api.dependencies import CurrentRegistry, CurrentSettings
from service.api.errors import ApiError
from service.api.schemas import MAX_SEED, Done, GenerateRequest, Timings, Usage
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from service.registry import Model
from service.settings import Settings
from trainer.vocabulary import UnknownCharacters, Vocabulary


@dataclass(frozen=True)
class Running:
    id: str
    request: GenerateRequest
    model: Model
    generation: Generation

    def done(self) -> Done:
        """What is said of a generation that has ended by itself."""
        config, generation = self.model.config, self.generation
        reason, finished = generation.finish_reason, generation.finished
        if finished is None or reason is None or reason in ("cancelled", "error"):
            raise RuntimeError(f"{self.id} has not ended by itself")
        admitted = generation.admitted or finished  # its time may be up while it waits
        first = generation.first or finished
        return Done(
            id=self.id,
            model=config.name,
            version=config.version,
            start_string=self.request.start_string,
            seed=generation.seed,
            finish_reason=reason,
            usage=Usage(prompt_characters=len(generation.prompt.ids), generated_characters=generation.generated),
            timings=Timings(
                queue_ms=_milliseconds(admitted - generation.created),
                prefill_ms=_milliseconds(first - admitted),
                decode_ms=_milliseconds(finished - first),
                characters_per_second=round(generation.generated / max(finished - admitted, 1e-9), 1),
            ),
        )


async def taken(body: GenerateRequest, registry: CurrentRegistry, settings: CurrentSettings) -> AsyncIterator[Running]:
    """Checks a request and hands it to the engine before the answer starts, so that whatever is wrong has its status.

    However the answer ends, sent, failed or its reader gone, the slot is free again.
    """
    _check_limits(body, settings)
    model = registry.get(body.model)
    vocabulary = model.vocabulary
    allowed = None
    if body.allowed_characters is not None:
        allowed = np.zeros(len(vocabulary), bool)
        allowed[_encoded(vocabulary, body.allowed_characters, "allowed_characters")] = True
    generation = Generation(
        prompt=Prompt(_encoded(vocabulary, body.start_string, "start_string")),
        num_generate=body.num_generate,
        sampling=Sampling(body.temperature, body.top_k, body.top_p, body.min_p, allowed),
        seed=secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed,
        stop=_possible(body.stop, vocabulary),
        deadline=None if body.max_time_ms is None else time.perf_counter() + body.max_time_ms / 1000,
    )
    model.engine.submit(generation)
    try:
        yield Running(uuid.uuid4().hex, body, model, generation)
    finally:
        model.engine.cancel(generation)


Taken = Annotated[Running, Depends(taken)]


def _check_limits(body: GenerateRequest, settings: Settings) -> None:
    for field, given, limit in (
        ("start_string", len(body.start_string), settings.max_start_string),
        ("num_generate", body.num_generate, settings.max_num_generate),
    ):
        if given > limit:
            raise ApiError(422, "too_long", f"{field}: {given:,} characters are more than the {limit:,} allowed here", param=field)


def _encoded(vocabulary: Vocabulary, text: str, field: str) -> NDArray[np.int32]:
    try:
        return vocabulary.encode(text)
    except UnknownCharacters as error:
        raise ApiError(422, "unknown_characters", str(error), param=field) from None


def _possible(stop: list[str], vocabulary: Vocabulary) -> list[list[int]]:
    """The stop strings' ids, without those that hold a character which the model lacks: they can't come."""
    known = set(vocabulary.characters) if stop else set()
    return [vocabulary.encode(string).tolist() for string in stop if known.issuperset(string)]


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
