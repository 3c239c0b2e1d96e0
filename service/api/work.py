"""What a request gave an engine to do, for the log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request

from service.generation.request import Generation
from service.registry import Model


@dataclass
class Work:
    """What a request gave an engine to do, and what its client got of it: a generation may have ended long before its answer."""

    model: Model
    generations: Sequence[Generation]
    prompts: Sequence[str]
    streamed: int | None = None  # characters sent so far; None: the answer is no stream
    cut: Literal["cancelled", "error", "timeout"] | None = None  # why the answer ended before its texts did


def note(request: Request, work: Work) -> None:
    """Has it logged with the request."""
    request.state.work = work


def work_fields(work: Work) -> dict[str, Any]:
    """Times are those of the slowest of its generations."""
    config, generations = work.model.config, work.generations
    prompts = {id(generation.prompt): len(generation.prompt.ids) for generation in generations}
    generated = sum(generation.num_emitted for generation in generations)
    sent = work.streamed if work.streamed is not None else 0 if work.cut else generated
    reasons = {work.cut} if work.cut else {generation.output.finish_reason for generation in generations}
    fields: dict[str, Any] = {
        "model": config.name,
        "version": config.version,
        "prompt_characters": sum(prompts.values()),
        "generated_characters": generated,
        "sent_characters": sent,
        "finish_reasons": ", ".join(sorted(map(str, reasons))),
    }
    spans = [
        ("queue_seconds", "arrived_at", "scheduled_at"),
        ("first_seconds", "arrived_at", "first_token_at"),  # to the first character
        ("decode_seconds", "first_token_at", "finished_at"),
    ]
    for name, begin, end in spans:
        times = [(getattr(generation, begin), getattr(generation, end)) for generation in generations]
        if known := [until - since for since, until in times if since is not None and until is not None]:
            fields[name] = round(max(known), 6)
    return fields
