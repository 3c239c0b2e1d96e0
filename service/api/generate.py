"""/generate: continues a start string, and answers with JSON or with server-sent events."""

import json
import re
import time
import uuid
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray

from service.api.body_route import BodyRoute, JsonBody, build_answer, json_response
from service.api.errors import ApiError, error_responses, invalid_field
from service.api.events import event, stream_content
from service.api.job import Job
from service.api.logprobs import character_logprobs
from service.api.resume import EventId, parameters_digest
from service.api.schemas import CharacterLogprob, Done, GenerateQuery, GenerateRequest, GenerateResponse, Timings, Usage
from service.api.sse import EventStream
from service.api.state_token import StateToken
from service.api.validation import (
    check_length,
    check_logprobs,
    constrain,
    history_of,
    on_current_model,
    read_text,
    sampling_of,
    seed_or_default,
    stop_ids,
)
from service.generation.output_queue import Chunk
from service.generation.request import Generation, Prompt
from service.registry import Model
from service.settings import Settings

router = APIRouter(tags=["generation"], route_class=BodyRoute)

EVENTS, JSON = "text/event-stream", "application/json"
STREAM = stream_content('texts as `{"text"}`, then `done` with the answer without its text, or `error` with the error')
ENDED = {"description": "The stream that Last-Event-ID names is complete. An EventSource does not reconnect after 204."}
ERRORS = error_responses(404, 410, 413, 415, 422, 503)
LAST_EVENT_ID: dict[str, Any] = {
    "parameters": [
        {
            "name": "Last-Event-ID",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "the id of the last event of a stream that was cut: the answer continues after it",
        }
    ]
}


@router.post(
    "/generate",
    response_model=GenerateResponse,
    responses={200: {"content": STREAM}, 204: ENDED, **ERRORS},
    openapi_extra=LAST_EVENT_ID,
)
async def generate(request: Request, body: JsonBody[GenerateRequest]) -> Response:
    """Continues start_string. Each next character is sampled from the model's distribution at the temperature."""
    if prefers_stream(request) if body.stream is None else body.stream:
        return await _stream(request, body)
    accepted = await _accept(request, body, streams=False)
    with accepted.job.submit() as job:
        (chunk,) = await job.collect()
        return await build_answer(lambda: json_response(accepted.answer(chunk), exclude_none=True), body.logprobs)


@router.get(
    "/generate", response_class=Response, responses={200: {"content": STREAM}, 204: ENDED, **ERRORS}, openapi_extra=LAST_EVENT_ID
)
async def generate_by_query(request: Request, query: Annotated[GenerateQuery, Query()]) -> Response:
    """Like POST /generate, but takes a query and always streams: for a browser's EventSource, and for curl without a body."""
    return await _stream(request, query)


async def _stream(request: Request, body: GenerateRequest) -> Response:
    accepted = await _accept(request, body, streams=True)
    return EventStream(accepted.job.submit(), accepted)


def prefers_stream(request: Request) -> bool:
    """The Accept header names event streams, and does not prefer JSON by weight or, if the weights are equal, by order."""
    accept = ", ".join(request.headers.getlist("accept"))
    if EVENTS not in accept.lower():
        return False
    weights: dict[str, float] = {}
    for kind, *parameters in (re.sub(r"\s", "", kind).lower().split(";") for kind in accept.split(",")):
        found = [re.fullmatch(r"q=(0(\.\d*)?|1(\.0*)?)", parameter) for parameter in parameters]
        weights.setdefault(kind, next((float(q[1]) for q in found if q), 1.0))
    stream, whole = weights.get(EVENTS, 0), next((weights[kind] for kind in (JSON, "application/*", "*/*") if kind in weights), 0)
    if stream != whole:
        return stream > whole
    return stream > 0 and next(kind for kind in weights if kind in (EVENTS, JSON)) == EVENTS


async def _accept(request: Request, body: GenerateRequest, *, streams: bool) -> "Accepted":
    """Checks a request. Raises ApiError, UnknownModel, NotReady or StreamEnded, before the answer starts."""
    settings: Settings = request.app.state.settings
    if "num_generate" not in body.model_fields_set:
        body = body.model_copy(update={"num_generate": min(body.num_generate, settings.max_num_generate)})
    check_length("start_string", len(body.start_string or ""), settings.max_start_string)
    check_length("num_generate", body.num_generate, settings.max_num_generate)
    check_logprobs(body.num_generate, body.logprobs, settings)
    on_model = partial(_on_model, request, body, time.perf_counter(), streams=streams)
    return await on_current_model(request, body.model, on_model)


async def _on_model(request: Request, body: GenerateRequest, arrived_at: float, model: Model, *, streams: bool) -> "Accepted":
    settings: Settings = request.app.state.settings
    parameters = parameters_digest(model, body) if streams else ""
    resumed = _resumed(request, model, body, parameters, streams=streams)
    start_string, ids, token = _read(body, model, settings, resumed.seed if resumed else body.seed)
    field = body.constraint.kind if body.constraint else ""
    constrained = await constrain(request, model, body.constraint, body.num_generate, field)
    vocabulary = constrained.vocabulary if constrained else model.vocabulary
    sampling = sampling_of(model, body, constrained=constrained)
    generation = Generation(
        prompt=Prompt(ids, initial_state=token.state),
        num_generate=body.num_generate,
        sampling=sampling,
        history=history_of(model, sampling, ids[len(token.ids) :], body.num_generate),  # not what an earlier request wrote
        seed=token.seed,
        stop=stop_ids(body.stop, vocabulary),
        top_logprobs=body.logprobs,
        deadline=None if body.max_time_ms is None else arrived_at + body.max_time_ms / 1000,
        arrived_at=arrived_at,
        already_sent=resumed.sent if resumed else 0,
        num_sampled_before=token.num_sampled,
        returns_state=body.return_state,
    )
    position = resumed or EventId(uuid.uuid4().hex, parameters, model.config.version, model.weights_digest, token.seed, 0)
    job = Job(request, model, [(start_string, generation)], vocabulary=vocabulary, pace=body.pace, skip=position.sent)
    return Accepted(body, job, position, resumed is not None, settings.secret.get_secret_value())


def _resumed(request: Request, model: Model, body: GenerateRequest, parameters: str, *, streams: bool) -> EventId | None:
    """The last event that the client received of a stream that was cut. Raises ApiError or StreamEnded."""
    last_event_id = request.headers.get("last-event-id")
    if not last_event_id:
        return None
    event_id = EventId.parse(last_event_id)
    if not streams:
        raise invalid_field("Last-Event-ID", "only a stream can be resumed", "invalid_event_id")
    event_id.check(model, parameters, body.seed)
    return event_id


def _read(body: GenerateRequest, model: Model, settings: Settings, seed: int | None) -> tuple[str, NDArray[np.int32], StateToken]:
    """(The start string as it is read; the ids of the token and the start string; where they are read from). Raises ApiError."""
    if body.start_string is None and body.state is None:
        raise invalid_field("start_string", "a start string or a state is needed")
    if body.state is None:
        token = StateToken(seed_or_default(seed, settings), num_sampled=0, state=None, ids=[])
    else:
        token = StateToken.decode(body.state, model, settings.secret.get_secret_value())
        if seed is not None and seed != token.seed:  # another text, which uses random numbers of its own
            token = replace(token, seed=seed, num_sampled=0)
    start_string, added = read_text(model.vocabulary, body.start_string or "", body.on_unknown, "start_string")
    ids = np.concatenate([np.array(token.ids, np.int32), added])
    if not len(ids):
        raise invalid_field("start_string", "nothing is left of it without unknown characters")
    # A text that was cut while it was read holds the rest, and one whose end was held back what it wrote.
    check_length("state", len(ids), 2 * settings.max_start_string + settings.max_num_generate)
    return start_string, ids, token


@dataclass
class Accepted:
    """A checked request, and how its answer is written: whole, or as a stream (see `service.api.sse.StreamFormat`)."""

    body: GenerateRequest
    job: Job
    position: EventId  # of the last event that the client received, or of event 0
    resumed: bool
    secret: str = field(repr=False)  # that state tokens are signed with

    def __post_init__(self) -> None:
        (self._completion,) = self.job.completions
        self._vocabulary, self._sent = self.job.vocabulary, self.position.sent

    def answer(self, chunk: Chunk) -> GenerateResponse:
        text, found = self._vocabulary.decode(chunk.characters), chunk.log_probabilities
        return GenerateResponse(
            **dict(self._done()),
            text=text if self.body.echo is False else self._completion.prompt + text,
            logprobs=found and [CharacterLogprob(**one) for one in character_logprobs(self._vocabulary, chunk.characters, found)],
        )

    def opening(self) -> bytes:
        return self._event(_text(self._completion.prompt)) if self.body.echo and not self.resumed else b""

    def chunk(self, _: int, chunk: Chunk, *, ended: bool) -> bytes:  # noqa: ARG002 - the end has an event of its own
        if not chunk.characters:
            return b""
        self._sent += len(chunk.characters)
        data = _text(self._vocabulary.decode(chunk.characters))
        if chunk.log_probabilities is not None:
            found = character_logprobs(self._vocabulary, chunk.characters, chunk.log_probabilities)
            data = f'{data[:-1]},"logprobs":{json.dumps(found, ensure_ascii=False)}}}'
        return self._event(data)

    def closing(self) -> bytes:
        return event(self._done().model_dump_json(exclude_none=True), "done", id=f"{self.position.prefix}{self._sent}-end")

    def failure(self, error: ApiError) -> bytes:
        return event(error.body.model_dump_json(), "error", id=f"{self.position.prefix}{self._sent}")

    def _event(self, data: str) -> bytes:
        return event(data, id=f"{self.position.prefix}{self._sent}")

    def _done(self) -> Done:
        """The answer without its text."""
        model, generation = self.job.model, self._completion.generation
        reason = generation.output.finish_reason
        if generation.finished_at is None or reason is None or reason in ("cancelled", "error"):
            raise RuntimeError(f"{self.position.request} has not ended, or was cut")
        return Done(
            id=self.position.request,
            model=model.config.name,
            version=model.config.version,
            engine=model.engine_name,
            precision=model.precision,
            start_string=self._completion.prompt,
            seed=generation.seed,
            finish_reason=reason,
            usage=Usage(prompt_characters=len(self._completion.prompt), generated_characters=generation.num_emitted),
            timings=_timings(generation, generation.finished_at),
            state=self._state_token() if self.body.return_state else None,
        )

    def _state_token(self) -> str:
        generation = self._completion.generation
        state, ids = generation.resume_point
        num_sampled = generation.num_sampled_before + generation.num_emitted
        return StateToken(generation.seed, num_sampled, state, ids).encode(self.job.model, self.secret)


def _timings(generation: Generation, finished_at: float) -> Timings:
    times = generation.times(finished_at)
    seconds = max((times.prefill or 0) + (times.decode or 0), 1e-9)
    return Timings(
        queue_ms=_milliseconds(times.queue),
        prefill_ms=_milliseconds(times.prefill or 0),
        decode_ms=_milliseconds(times.decode or 0),
        characters_per_second=round(generation.num_emitted / seconds, 1),
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _text(text: str) -> str:
    return f'{{"text":{json.dumps(text, ensure_ascii=False)}}}'
