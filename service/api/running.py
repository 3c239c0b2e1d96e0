"""A request that has been taken: its generation, and what is said of it when it has ended."""

import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import Request

from service.api.asking import check_length, check_logprobs, drawn_seed, history_of, read_text, sampling_of, stop_ids, submitted
from service.api.errors import ApiError
from service.api.reader import Reader
from service.api.schemas import Done, GenerateRequest, Timings, Usage
from service.api.tokens import EventId, StateToken, digest, weights_digest
from service.api.work import Work
from service.generation.backend import LogProbabilities
from service.generation.request import Generation, Prompt
from service.registry import Model, Registry
from service.settings import Settings
from trainer.vocabulary import Vocabulary


@dataclass(frozen=True)
class Running:
    """One generation for one client."""

    body: GenerateRequest
    streams: bool  # the answer is a stream
    start_string: str  # as it is read
    model: Model
    generation: Generation
    work: Work
    reader: Reader
    position: EventId  # of the last event the client received, or event 0
    resumed: bool  # the client is resuming
    secret: str = field(repr=False)  # that tokens are signed with

    @property
    def id(self) -> str:
        return self.position.request

    def done(self) -> Done:
        """What is said of a generation that was not cut short."""
        config, generation = self.model.config, self.generation
        reason = generation.output.finish_reason
        if generation.finished_at is None or reason is None or reason in ("cancelled", "error"):
            raise RuntimeError(f"{self.id} has not ended, or was cut short")
        return Done(
            id=self.id,
            model=config.name,
            version=config.version,
            engine=self.model.engine_name,
            precision=self.model.precision,
            start_string=self.start_string,
            seed=generation.seed,
            finish_reason=reason,
            usage=Usage(prompt_characters=len(self.start_string), generated_characters=generation.num_emitted),
            timings=timings(generation, generation.finished_at),
            state=self._token() if self.body.return_state else None,
        )

    def _token(self) -> str:
        generation = self.generation
        state, ids = generation.resume_point
        drawn = generation.num_sampled_before + generation.num_emitted
        return StateToken(generation.seed, drawn, state, ids).encode(self.model, self.secret)


def timings(generation: Generation, finished: float) -> Timings:
    admitted = generation.scheduled_at or finished  # its time may run out while it waits
    first = generation.first_token_at or finished
    return Timings(
        queue_ms=_milliseconds(admitted - generation.arrived_at),
        prefill_ms=_milliseconds(first - admitted),
        decode_ms=_milliseconds(finished - first),
        characters_per_second=round(generation.num_emitted / max(finished - admitted, 1e-9), 1),
    )


EVENTS, JSON = "text/event-stream", "application/json"

LAST_EVENT_ID: dict[str, Any] = {
    "parameters": [
        {
            "name": "Last-Event-ID",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "of a stream that was cut: continues after that event",
        }
    ]
}
"""For the OpenAPI document."""


def prefers_stream(request: Request) -> bool:
    """The Accept header names event streams, and does not prefer JSON to them by weight or, of equal weights, by order."""
    accept = ", ".join(request.headers.getlist("accept"))
    weights: dict[str, float] = {}
    for kind, *parameters in (re.sub(r"\s", "", kind).lower().split(";") for kind in accept.split(",")):
        found = [re.fullmatch(r"q=(0(\.\d*)?|1(\.0*)?)", parameter) for parameter in parameters]
        weights.setdefault(kind, next((float(q[1]) for q in found if q), 1.0))
    stream, json = weights.get(EVENTS, 0), next((weights[kind] for kind in (JSON, "application/*", "*/*") if kind in weights), 0)
    if stream != json:
        return stream > json
    return stream > 0 and next(kind for kind in weights if kind in (EVENTS, JSON)) == EVENTS


@contextmanager
def running(request: Request, body: GenerateRequest, *, streams: bool) -> Iterator[Running]:
    """Checks a request and hands it to the engine before the answer starts, so that whatever is wrong has its own status.

    However the answer ends, sent, failed or its reader gone, the slot is free afterwards.
    """
    registry: Registry = request.app.state.registry
    settings: Settings = request.app.state.settings
    last_event_id = request.headers.get("last-event-id")
    if body.start_string is None and body.state is None:
        raise ApiError(422, "invalid_value", "start_string: a start string or a state is needed", param="start_string")
    check_length("start_string", len(body.start_string or ""), settings.max_start_string)
    check_length("num_generate", body.num_generate, settings.max_num_generate)
    check_logprobs(body.num_generate, body.logprobs, settings)
    model = registry.get(body.model)
    vocabulary, asked = model.vocabulary, digest(model, body) if streams else ""
    cut = EventId.parse(last_event_id) if last_event_id else None
    if cut:
        if not streams:
            raise ApiError(422, "invalid_event_id", "Last-Event-ID: only a stream can be gone on with", param="Last-Event-ID")
        cut.check(model, asked, body.seed)
    seed = cut.seed if cut else body.seed
    secret = settings.secret.get_secret_value()
    token = None if body.state is None else StateToken.decode(body.state, model, secret)
    start_string, ids = "", np.empty(0, np.int32)
    if body.start_string is not None:
        start_string, ids = read_text(vocabulary, body.start_string, body.on_unknown, "start_string")
    drawn_before = 0
    if token:
        ids = np.concatenate([np.array(token.ids, np.int32), ids])
        check_length("state", len(ids), 2 * settings.max_start_string)  # one that ended before all was read holds the rest
        if seed is None or seed == token.seed:  # the text's own, gone on with
            seed, drawn_before = token.seed, token.drawn
    elif not len(ids):
        raise ApiError(422, "invalid_value", "start_string: nothing is left of it without unknown characters", param="start_string")
    sampling = sampling_of(model, body)
    generation = Generation(
        prompt=Prompt(ids, initial_state=token.state if token else None),
        num_generate=body.num_generate,
        sampling=sampling,
        history=history_of(model, sampling, ids),
        seed=drawn_seed() if seed is None else seed,
        stop=stop_ids(body.stop, vocabulary),
        top_logprobs=body.logprobs,
        deadline=None if body.max_time_ms is None else time.perf_counter() + body.max_time_ms / 1000,
        already_sent=cut.sent if cut else 0,
        num_sampled_before=drawn_before,
        returns_state=body.return_state,
    )
    position = cut or EventId(uuid.uuid4().hex, asked, model.config.version, weights_digest(model), generation.seed, 0)
    reader = Reader(generation, skip=position.sent, pace=body.pace, over=lambda: registry.ended)
    work = Work(model, [generation], [start_string])
    with submitted(request, work):
        yield Running(body, streams, start_string, model, generation, work, reader, position, cut is not None, secret)


def logprobs_of(vocabulary: Vocabulary, characters: Sequence[int], p: LogProbabilities) -> list[dict[str, Any]]:
    """One for each of the ids, in the form of `CharacterLogprob` but as plain dictionaries, for there may be many."""
    names = vocabulary.characters
    return [
        {
            "character": names[character],
            "logprob": chosen,
            "likeliest": [{"character": names[i], "logprob": value} for i, value in zip(ids, values, strict=True)],
        }
        for character, chosen, ids, values in zip(
            characters, p.chosen.tolist(), p.top_ids.tolist(), p.top_values.tolist(), strict=True
        )
    ]


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
