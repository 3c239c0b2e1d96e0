"""Converts a request's fields to the engine's parameters, and checks the server's limits."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from service.api.disconnect import cancel_on_disconnect
from service.api.errors import ApiError, invalid_field
from service.api.fields import OnUnknown, SamplingFields
from service.generation.constraints.compiler import Compiler, Constrained, Constraint
from service.generation.constraints.pattern import UnsupportedConstraint
from service.generation.sampling import History, Sampling
from service.notes import forget_unknown_characters, note_unknown_characters
from service.registry import Model
from service.settings import Settings
from trainer.vocabulary import UnknownCharacters, Vocabulary

T = TypeVar("T")


def check_logprobs(characters: int, logprobs: int | None, settings: Settings) -> None:
    """Raises ApiError if an answer would have too many log-probabilities."""
    if logprobs is not None:
        check_length("logprobs", characters * (logprobs + 1), settings.max_logprobs, "values")


def check_length(field: str, given: int, limit: int, unit: str = "characters") -> None:
    """Raises ApiError above a limit of the server."""
    if given > limit:
        raise invalid_field(field, f"{given:,} {unit} exceed this server's limit of {limit:,}", "too_long")


def seed_or_default(seed: int | None, settings: Settings) -> int:
    """The seed of a request. If it has none: the server's, or else a random one that every JSON parser represents exactly."""
    if seed is not None:
        return seed
    return secrets.randbelow(2**53) if settings.seed is None else settings.seed


async def on_current_model(request: Request, name: str | None, accept: Callable[[Model], Awaitable[T]]) -> T:
    """What `accept` makes of the request for the model of that name, to be submitted at once.

    If the model is replaced meanwhile, because a constraint takes seconds to compile, the new version accepts the request. The
    engine of the old one ends when it is idle. Raises UnknownModel, NotReady, or what `accept` raises.
    """
    registry = request.app.state.registry
    while True:
        model = registry.get(name)
        accepted = await accept(model)
        if registry.get(name) is model:
            return accepted
        forget_unknown_characters()


async def constrain(
    request: Request, model: Model, constraint: Constraint | None, num_generate: int, field: str
) -> Constrained | None:
    """Compiles a constraint. field: errors name it.

    Raises ApiError, also if num_generate is too little for any text, and QueueFull if too many constraints wait.
    """
    if constraint is None:
        return None
    compiler: Compiler = request.app.state.compiler
    try:
        found = compiler.cached(constraint, model.vocabulary)
        if found is None:
            waiting = asyncio.wrap_future(compiler.submit(constraint, model.vocabulary))
            found = await cancel_on_disconnect(waiting, request.receive)
    except UnsupportedConstraint as error:
        raise invalid_field(field, str(error)) from None
    if found.shortest > num_generate:
        message = f"the shortest answer has {found.shortest:,} characters, more than the {num_generate:,} that are allowed"
        raise invalid_field(field, message)
    return found


def sampling_of(
    model: Model,
    fields: SamplingFields,
    logit_bias: Mapping[int, float] = MappingProxyType({}),
    constrained: Constrained | None = None,
) -> Sampling:
    """Raises ApiError for characters or tokens outside the vocabulary, and for allowed characters beside a constraint."""
    vocabulary, allowed, bias = model.vocabulary, None, None
    if fields.allowed_characters is not None:
        if constrained is not None:
            raise invalid_field("allowed_characters", "cannot be combined with a constraint; a regex can exclude characters")
        allowed = np.zeros(len(vocabulary), bool)
        allowed[read_text(vocabulary, fields.allowed_characters, "error", "allowed_characters")[1]] = True
    if logit_bias:
        ids = list(logit_bias)
        if unknown := [token for token in ids if not 0 <= token < len(vocabulary)]:
            raise _invalid_token("logit_bias", f"{unknown[0]}", vocabulary)
        bias = np.zeros(len(vocabulary), np.float32)
        bias[ids] = list(logit_bias.values())
    return Sampling(
        temperature=fields.temperature,
        top_k=fields.top_k,
        top_p=fields.top_p,
        min_p=fields.min_p,
        allowed=allowed,
        bias=bias,
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        repetition_penalty=fields.repetition_penalty,
        automaton=None if constrained is None else constrained.automaton,
    )


def history_of(model: Model, sampling: Sampling, prompt: NDArray[np.int32], num_generate: int) -> History | None:
    return History.of(prompt, len(model.vocabulary), num_generate) if sampling.needs_history else None


def read_text(vocabulary: Vocabulary, text: str, on_unknown: str, field: str) -> tuple[str, NDArray[np.int32]]:
    """(The text after `on_unknown` was applied, its ids [characters]). `OnUnknown` describes the values of on_unknown.

    Raises ApiError for unknown characters that cannot be removed or replaced.
    """
    ids = vocabulary.look_up(text)
    unknown = np.flatnonzero(ids < 0).tolist()
    if not unknown:
        return text, ids
    if on_unknown == "error":
        error = UnknownCharacters([(position, text[position]) for position in unknown])
        raise ApiError(422, "unknown_characters", str(error), param=field)
    if on_unknown == "replace":
        if " " not in vocabulary.characters:
            message = f"{field}: the model's vocabulary has no space to replace unknown characters with; use skip"
            raise ApiError(422, "unknown_characters", message, param="on_unknown")
        ids[unknown] = vocabulary.encode(" ")
    note_unknown_characters(len(unknown))
    ids = ids[ids >= 0]
    return vocabulary.decode(ids.tolist()), ids


def read_tokens(vocabulary: Vocabulary, tokens: Sequence[int], field: str) -> tuple[str, NDArray[np.int32]]:
    """(The text of tokens, the tokens as an array). A token is the id of a character. Raises ApiError for other numbers."""
    for position, token in enumerate(tokens):
        if not 0 <= token < len(vocabulary):
            raise _invalid_token(field, f"{token} at position {position}", vocabulary)
    return vocabulary.decode(tokens), np.array(tokens, np.int32)


def read_prompt(
    given: str | Sequence[int], on_unknown: OnUnknown | None, field: str, model: Model, limit: int
) -> tuple[str, NDArray[np.int32]]:
    """(A prompt as it is read, its ids). Errors name `field`. Raises ApiError, also if it is empty or longer than `limit`."""
    vocabulary = model.vocabulary
    if len(given) > limit:  # in words that clients look for
        message = f"This model's maximum context length is {limit:,} tokens, but {field} has {len(given):,}; a token is a character"
        raise ApiError(422, "context_length_exceeded", message, param=field)
    if isinstance(given, str):
        text, ids = read_text(vocabulary, given, on_unknown or default_on_unknown(vocabulary), field)
    else:
        text, ids = read_tokens(vocabulary, given, field)
    if not len(ids):
        why = "nothing is left without unknown characters" if given else "there is no text in it"
        raise invalid_field(field, why)
    return text, ids


def default_on_unknown(vocabulary: Vocabulary) -> OnUnknown:
    """Tools send texts of other vocabularies, so their characters become spaces, or are skipped where the model has no space."""
    return "replace" if " " in vocabulary.characters else "skip"


def _invalid_token(field: str, found: str, vocabulary: Vocabulary) -> ApiError:
    return invalid_field(field, f"{found} is not a token of this model; its tokens are 0 to {len(vocabulary) - 1}")


def stop_ids(stop: Sequence[str], vocabulary: Vocabulary) -> list[list[int]]:
    """The ids of each stop string. Strings with unknown characters cannot occur and are dropped."""
    known = set(vocabulary.characters) if stop else set()
    return [vocabulary.encode(string).tolist() for string in stop if known.issuperset(string)]
