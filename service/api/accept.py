"""From what a protocol asks for to a job: checks the server's limits and prepares the generations."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fastapi import Request

from service.api.errors import invalid_field
from service.api.fields import OnUnknown, SamplingFields
from service.api.job import Job
from service.api.validation import (
    check_length,
    check_logprobs,
    constrain,
    history_of,
    on_current_model,
    read_prompt,
    sampling_of,
    seed_or_default,
    stop_ids,
)
from service.chat import ChatTemplate
from service.conversation import Conversation
from service.generation.constraints.compiler import Constraint
from service.generation.request import Generation, Prompt
from service.registry import Model
from service.settings import Settings

MAX_REPLY = 1000  # characters of an answer in a chat, where the request sets no limit
TOOLS_HEADER = "X-Folio-Tools"


@dataclass(frozen=True, kw_only=True)
class CompletionParams:
    """What an operation asks of the engine: the one form that every protocol is translated to."""

    model: str | None
    max_tokens: int  # of each continuation; 0, in a chat: MAX_REPLY
    sampling: SamplingFields
    prompts: Sequence[str | list[int]] = ()  # texts or ids; in a chat, the conversation's
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    n: int = 1  # continuations of each prompt
    stop: Sequence[str] = ()
    min_tokens: int = 0
    seed: int | None = None
    logprobs: int | None = None
    pace: float | None = None
    on_unknown: OnUnknown | None = None  # None: replace where the model knows a space, else skip
    echo: bool = False  # the answer will begin with the prompts, which are scored too if there are logprobs
    constraint: Constraint | None = None
    prompt_field: str = "messages"  # errors name these fields
    max_tokens_field: str = "max_tokens"
    constraint_field: str = "response_format"


async def accept(request: Request, params: CompletionParams) -> Job:
    """Checks a request. Raises ApiError, UnknownModel or NotReady."""
    arrived_at = time.perf_counter()
    return await on_current_model(request, params.model, lambda model: _accept(request, model, params, arrived_at))


async def _accept(request: Request, model: Model, params: CompletionParams, arrived_at: float) -> Job:
    settings: Settings = request.app.state.settings
    _check_limits(params, model, settings)
    constrained = await constrain(request, model, params.constraint, params.max_tokens, params.constraint_field)
    vocabulary = constrained.vocabulary if constrained else model.vocabulary
    sampling = sampling_of(model, params.sampling, params.logit_bias, constrained)
    seed, stop = seed_or_default(params.seed, settings), stop_ids(params.stop, vocabulary)
    calls = params.constraint is not None and params.constraint.kind == "tools"
    generations: list[tuple[str, Generation]] = []
    for given in params.prompts:
        text, ids = read_prompt(given, params.on_unknown, params.prompt_field, model, settings.max_start_string)
        prompt = Prompt(ids, shared=params.n > 1, scored=params.echo and params.logprobs is not None)
        for _ in range(params.n):
            generation = Generation(
                prompt=prompt,
                num_generate=params.max_tokens,
                sampling=sampling,
                history=history_of(model, sampling, prompt.ids, params.max_tokens),
                seed=seed,
                choice=len(generations),
                stop=stop,
                top_logprobs=params.logprobs,
                complete_at_limit=calls,  # whole calls count, though one more could have followed
                min_tokens=params.min_tokens,
                arrived_at=arrived_at,
            )
            generations.append((text, generation))
    return Job(request, model, generations, vocabulary=vocabulary, calls=calls, pace=params.pace)


async def accept_chat(request: Request, conversation: Conversation, params: CompletionParams, *, past_turn: bool = False) -> Job:
    """Checks a request for the next answer of a chat. The conversation's prompt and constraint replace those of params.

    past_turn: the answer may continue past the end of the speaker's turn. Raises as `accept` does.
    """
    arrived_at = time.perf_counter()

    async def accepted(model: Model) -> Job:
        of_chat = _of_chat(request, model, conversation, params, past_turn=past_turn)
        return await _accept(request, model, of_chat, arrived_at)

    return await on_current_model(request, params.model, accepted)


def _of_chat(
    request: Request, model: Model, conversation: Conversation, params: CompletionParams, *, past_turn: bool
) -> CompletionParams:
    """The params with the conversation's prompt and constraint."""
    settings: Settings = request.app.state.settings
    header = request.headers.get(TOOLS_HEADER)
    try:
        constraint = conversation.constraint(header or settings.auto_tools)
    except ValueError as error:
        raise invalid_field(TOOLS_HEADER, str(error)) from None
    calls = constraint is not None and constraint.kind == "tools"
    ends = [] if past_turn or constraint else model.chat.stop
    return replace(
        params,
        prompts=[_chat_prompt(conversation, model.chat)],
        max_tokens=params.max_tokens or min(MAX_REPLY, max(1, settings.max_num_generate // params.n)),
        stop=[] if calls else [*ends, *params.stop],  # no stop string cuts a call
        constraint=constraint,
        constraint_field="tools" if calls else conversation.format_field,
    )


def count_chat(
    request: Request, name: str | None, conversation: Conversation, on_unknown: OnUnknown, field: str = "messages"
) -> int:
    """The number of characters that `accept_chat` would read. field: errors name it.

    Raises ApiError, UnknownModel or NotReady.
    """
    model: Model = request.app.state.registry.get(name)
    # A client counts a text in order to shorten it. So longer ones than can be read are counted, as by /tokenize.
    settings: Settings = request.app.state.settings
    prompt, limit = _chat_prompt(conversation, model.chat), max(settings.max_score, settings.max_start_string)
    check_length(field, len(prompt), limit)
    _, ids = read_prompt(prompt, on_unknown, field, model, limit)
    return len(ids)


def _chat_prompt(conversation: Conversation, template: ChatTemplate) -> str:
    return template.render(conversation.turns, open_ended=conversation.continues)


def _check_limits(params: CompletionParams, model: Model, settings: Settings) -> None:
    count, limit = len(params.prompts) * params.n, min(settings.max_choices, model.engine.capacity)
    if count > limit:
        message = f"{len(params.prompts)} x {params.n} continuations exceed this server's limit of {limit}"
        raise invalid_field("n" if params.n > 1 else params.prompt_field, message, "too_many")
    check_length(params.max_tokens_field, params.max_tokens, settings.max_num_generate)
    if count * params.max_tokens > settings.max_num_generate:
        message = f"{count} x {params.max_tokens:,} characters exceed this server's limit of {settings.max_num_generate:,}"
        raise invalid_field(params.max_tokens_field, message, "too_long")
    echoed = sum(map(len, params.prompts)) * params.n if params.echo else 0
    check_logprobs(count * params.max_tokens + echoed, params.logprobs, settings)
    if params.min_tokens > params.max_tokens:
        raise invalid_field("min_tokens", f"{params.min_tokens:,} are more than {params.max_tokens_field}")
