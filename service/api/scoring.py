"""/score: the log-probabilities of a text. /vectorize: the ids of a text."""

import math

import numpy as np
from fastapi import APIRouter, Request, Response

from service.api.body_route import BodyRoute, JsonBody, json_response
from service.api.errors import ApiError, error_responses
from service.api.job import Job
from service.api.logprobs import character_logprobs
from service.api.schemas import ScoreRequest, ScoreResponse, Surprise, Unknown, VectorizeRequest, VectorizeResponse
from service.api.validation import check_length, read_text
from service.generation.backend import LogProbabilities
from service.generation.output_queue import concatenated
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from service.registry import Model, Registry
from trainer.vocabulary import UnknownCharacters

router = APIRouter(tags=["scoring"], route_class=BodyRoute)

ALTERNATIVES = 5  # most likely characters listed at each surprising position
MAX_NATS = 700  # exp of more may overflow


@router.post("/score", response_model=ScoreResponse, responses=error_responses(404, 413, 415, 422, 503))
async def score(request: Request, body: JsonBody[ScoreRequest]) -> Response:
    """Scores a text: each character's log-probability, nats per character, perplexity, and the least likely characters."""
    model = _model(request, body)
    text, ids = read_text(model.vocabulary, body.text, body.on_unknown, "text")
    if len(ids) < 2:
        return json_response(_scored(model, text, ids, None, 0))
    prompt = Prompt(ids, scored=True)
    generation = Generation(prompt, 0, Sampling(), seed=0, top_logprobs=ALTERNATIVES if body.surprising else 0)
    with Job(request, model, [(text, generation)]).submit() as job:
        await job.collect()
    return json_response(_scored(model, text, ids, concatenated(prompt.log_probabilities), body.surprising))


def _scored(model: Model, text: str, ids: np.ndarray, found: LogProbabilities | None, surprising: int) -> ScoreResponse:
    values = np.empty(0) if found is None else found.chosen.astype(np.float64)
    nats = -float(values.mean()) if len(values) else None
    surprises = []
    if found is not None:
        least = np.argsort(values, kind="stable")[:surprising]
        least_likely = LogProbabilities(found.chosen[least], found.top_ids[least], found.top_values[least])
        entries = character_logprobs(model.vocabulary, ids[1:][least].tolist(), least_likely)
        surprises = [Surprise(position=int(i) + 1, **entry) for i, entry in zip(least, entries, strict=True)]
    return ScoreResponse(
        model=model.config.name,
        version=model.config.version,
        engine=model.engine_name,
        precision=model.precision,
        text=text,
        scored_characters=len(values),
        logprobs=[None, *values.tolist()] if text else [],
        nats_per_character=nats,
        perplexity=None if nats is None or nats > MAX_NATS else math.exp(nats),
        surprising=surprises,
    )


@router.post("/vectorize", response_model=VectorizeResponse, responses=error_responses(404, 413, 415, 422, 503))
async def vectorize(request: Request, body: JsonBody[VectorizeRequest]) -> Response:
    """Converts a text to ids, and lists the characters that the model's vocabulary lacks."""
    model = _model(request, body)
    ids = model.vocabulary.look_up(body.text).tolist()
    unknown = [(position, body.text[position]) for position, i in enumerate(ids) if i < 0]
    if surrogates := [found for found in unknown if "\ud800" <= found[1] <= "\udfff"]:  # an answer in UTF-8 cannot contain them
        raise ApiError(422, "unknown_characters", str(UnknownCharacters(surrogates)), param="text")
    return json_response(
        VectorizeResponse(
            model=model.config.name,
            version=model.config.version,
            ids=[None if i < 0 else i for i in ids],
            unknown=[Unknown(character=character, position=position) for position, character in unknown],
        )
    )


def _model(request: Request, body: ScoreRequest | VectorizeRequest) -> Model:
    """The requested model. Raises ApiError if the text is too long."""
    check_length("text", len(body.text), request.app.state.settings.max_score)
    registry: Registry = request.app.state.registry
    return registry.get(body.model)
