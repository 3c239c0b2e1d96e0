"""A request that has been taken: its generation, and what is said of it when it has ended."""

import secrets
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from service.api.dependencies import CurrentRegistry, CurrentSettings
from service.api.errors import ApiError
from service.api.schemas import MAX_SEED, Done, GenerateRequest, Timings, Usage
from service.generation.request import Generation
from service.registry import Model
from service.settings import Settings


@dataclass(frozen=True)
class Running:
    id: str
    request: GenerateRequest
    model: Model
    generation: Generation

    def done(self) -> Done:
        """What is said of a generation that has all its characters."""
        config, generation = self.model.config, self.generation
        created, admitted, first, finished = generation.created, generation.admitted, generation.first, generation.finished
        if admitted is None or first is None or finished is None:
            raise RuntimeError(f"{self.id} has not ended")
        return Done(
            id=self.id,
            model=config.name,
            version=config.version,
            start_string=self.request.start_string,
            seed=generation.seed,
            finish_reason="length",
            usage=Usage(prompt_characters=len(generation.prompt), generated_characters=generation.generated),
            timings=Timings(
                queue_ms=_milliseconds(admitted - created),
                prefill_ms=_milliseconds(first - admitted),
                decode_ms=_milliseconds(finished - first),
                characters_per_second=round(generation.generated / (finished - admitted), 1),
            ),
        )


async def taken(body: GenerateRequest, registry: CurrentRegistry, settings: CurrentSettings) -> AsyncIterator[Running]:
    """Checks a request and hands it to the engine before the answer starts, so that whatever is wrong has its status.

    However the answer ends, sent, failed or its reader gone, the slot is free again.
    """
    _check_limits(body, settings)
    model = registry.get(body.model)
    generation = Generation(
        prompt=model.vocabulary.encode(body.start_string),
        num_generate=body.num_generate,
        temperature=body.temperature,
        seed=secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed,
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


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
