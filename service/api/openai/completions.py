"""/v1/completions: continues texts."""

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request, Response

from service.api.accept import CompletionParams, accept
from service.api.body_route import BodyRoute, JsonBody, build_answer, json_response
from service.api.errors import error_responses
from service.api.events import stream_content
from service.api.job import Completion as JobCompletion
from service.api.job import Job
from service.api.logprobs import named_logprobs
from service.api.openai.answers import Completion, CompletionChoice, CompletionLogprobs, FinishReason
from service.api.openai.requests import CompletionRequest
from service.api.openai.stream import STREAM, Answer, AnswerStream, Choice
from service.api.sse import EventStream
from service.generation.output_queue import Chunk, concatenated
from trainer.vocabulary import Vocabulary

router = APIRouter(prefix="/v1", tags=["openai"], route_class=BodyRoute)


@router.post(
    "/completions",
    response_model=Completion,
    responses={200: {"content": stream_content(STREAM)}, **error_responses(400, 404, 413, 415, 503)},
)
async def complete(request: Request, body: JsonBody[CompletionRequest]) -> Response:
    """Continues each prompt n times."""
    params = CompletionParams(
        model=body.model,
        prompts=body.prompts,
        max_tokens=body.max_tokens,
        sampling=body,
        logit_bias=body.logit_bias,
        n=body.n,
        stop=body.stop,
        min_tokens=body.min_tokens,
        seed=body.seed,
        logprobs=body.logprobs,
        pace=body.pace,
        on_unknown=body.on_unknown,
        echo=body.echo,
        constraint=body.constraint,
        prompt_field="prompt",
        constraint_field=body.constraint_field,
    )
    answer = Answer("cmpl", await accept(request, params))
    job = answer.job.submit()
    if body.stream:
        return EventStream(job, AnswerStream(answer, body.usage, "text_completion", partial(_parts, body, job), None, {"text": ""}))
    with job:
        chunks = await job.collect()
        return await build_answer(lambda: _whole(body, job, answer, chunks), body.logprobs)


def _whole(body: CompletionRequest, job: Job, answer: Answer, chunks: Sequence[Chunk]) -> Response:
    choices = [_choice(body, job, i, chunk, 0, answer.finish_reason(i)) for i, chunk in enumerate(chunks)]
    return json_response(Completion(choices=choices, usage=answer.usage, **answer.fields))


def _parts(body: CompletionRequest, job: Job, i: int, chunk: Chunk, offset: int) -> list[Choice]:
    if not chunk.characters and (offset or not body.echo):
        return []
    return [_choice(body, job, i, chunk, offset, None).model_dump()]


def _choice(
    body: CompletionRequest, job: Job, i: int, chunk: Chunk, offset: int, finish_reason: FinishReason | None
) -> CompletionChoice:
    """offset: characters of the choice before the chunk."""
    completion, vocabulary = job.completions[i], job.vocabulary
    echoed = body.echo and not offset
    text = vocabulary.decode(chunk.characters)
    logprobs = None
    if body.logprobs is not None:
        logprobs = _logprobs(vocabulary, chunk, len(completion.prompt) + offset)
        if echoed:
            logprobs = _with_prompt(logprobs, completion, vocabulary)
    text = completion.prompt + text if echoed else text
    return CompletionChoice(index=i, text=text, logprobs=logprobs, finish_reason=finish_reason)


def _with_prompt(logprobs: CompletionLogprobs, completion: JobCompletion, vocabulary: Vocabulary) -> CompletionLogprobs:
    """Puts the prompt's log-probabilities before the continuation's. The first character has none."""
    prompt = completion.generation.prompt
    parts = prompt.log_probabilities
    read = Chunk(prompt.ids[1:].tolist(), concatenated(parts) if parts else None)
    scored = _logprobs(vocabulary, read, 1)
    return CompletionLogprobs(
        tokens=[completion.prompt[0], *scored.tokens, *logprobs.tokens],
        token_logprobs=[None, *scored.token_logprobs, *logprobs.token_logprobs],
        top_logprobs=[None, *scored.top_logprobs, *logprobs.top_logprobs],
        text_offset=[0, *scored.text_offset, *logprobs.text_offset],
    )


def _logprobs(vocabulary: Vocabulary, chunk: Chunk, offset: int) -> CompletionLogprobs:
    """offset: of the chunk's first character in the whole text."""
    own, top = named_logprobs(vocabulary, chunk.log_probabilities) if chunk.log_probabilities else ([], [])
    tokens = [vocabulary.characters[character] for character in chunk.characters]
    return CompletionLogprobs(
        tokens=tokens,
        token_logprobs=list(own),
        top_logprobs=[dict(likeliest) | {token: value} for token, value, likeliest in zip(tokens, own, top, strict=True)],
        text_offset=list(range(offset, offset + len(tokens))),
    )
