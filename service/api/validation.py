"""Turns a request's fields into what the engine takes, and checks this server's limits."""

import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from service.api.errors import ApiError
from service.api.fields import SamplingFields
from service.api.notes import note_unknown_characters
from service.generation.sampling import History, Sampling
from service.registry import Model
from service.settings import Settings
from trainer.vocabulary import UnknownCharacters, Vocabulary


def check_logprobs(characters: int, logprobs: int | None, settings: Settings) -> None:
    """Raises ApiError if an answer would hold too many log-probabilities."""
    if logprobs is not None:
        check_length("logprobs", characters * (logprobs + 1), settings.max_logprobs, "values")


def check_length(field: str, given: int, limit: int, unit: str = "characters") -> None:
    """Raises ApiError above a limit of this server."""
    if given > limit:
        raise ApiError(422, "too_long", f"{field}: {given:,} {unit} are more than the {limit:,} allowed here", param=field)


def random_seed() -> int:
    """A seed that every JSON parser represents exactly."""
    return secrets.randbelow(2**53)


def sampling_of(model: Model, fields: SamplingFields, logit_bias: Mapping[int, float] = MappingProxyType({})) -> Sampling:
    """Raises ApiError for characters or tokens that the vocabulary lacks, and for options that the backend lacks."""
    vocabulary, allowed, bias = model.vocabulary, None, None
    if fields.allowed_characters is not None:
        allowed = np.zeros(len(vocabulary), bool)
        allowed[read_text(vocabulary, fields.allowed_characters, "error", "allowed_characters")[1]] = True
    if logit_bias:
        ids = list(logit_bias)
        if unknown := [token for token in ids if not 0 <= token < len(vocabulary)]:
            message = f"logit_bias: {unknown[0]} is not a token of this model: they are 0 to {len(vocabulary) - 1}"
            raise ApiError(422, "invalid_value", message, param="logit_bias")
        bias = np.zeros(len(vocabulary), np.float32)
        bias[ids] = list(logit_bias.values())
    sampling = Sampling(
        fields.temperature,
        fields.top_k,
        fields.top_p,
        fields.min_p,
        allowed,
        bias,
        fields.presence_penalty,
        fields.frequency_penalty,
        fields.repetition_penalty,
    )
    if model.engine_name == "tensorflow" and (bias is not None or sampling.needs_history):
        raise ApiError(422, "unsupported_value", "penalties and logit_bias need the native or the reference backend")
    return sampling


def history_of(model: Model, sampling: Sampling, prompt: NDArray[np.int32]) -> History | None:
    return History.of(prompt, len(model.vocabulary)) if sampling.needs_history else None


def read_text(vocabulary: Vocabulary, text: str, on_unknown: str, field: str) -> tuple[str, NDArray[np.int32]]:
    """(The text without unknown characters, its ids [characters]).

    on_unknown: "error" raises ApiError for them; "skip" drops them and "replace" reads spaces instead, and the answer's header
    X-Unknown-Characters counts them.
    """
    try:
        return text, vocabulary.encode(text)
    except UnknownCharacters as error:
        if on_unknown == "error":
            raise ApiError(422, "unknown_characters", str(error), param=field) from None
        if on_unknown == "replace" and " " not in vocabulary.characters:
            message = f"{field}: unknown characters cannot be replaced by spaces, for the vocabulary has none; skip drops them"
            raise ApiError(422, "unknown_characters", message, param="on_unknown") from None
        places, instead = {place for place, _ in error.places}, " " if on_unknown == "replace" else ""
        note_unknown_characters(len(error.places))
        known = "".join(instead if i in places else character for i, character in enumerate(text))
        return known, vocabulary.encode(known)


def read_tokens(vocabulary: Vocabulary, tokens: Sequence[int], field: str) -> tuple[str, NDArray[np.int32]]:
    """(The text of tokens, the tokens as an array). A token is the id of a character. Raises ApiError for others."""
    for position, token in enumerate(tokens):
        if not 0 <= token < len(vocabulary):
            message = f"{field}: {token} at position {position} is not a token of this model: they are 0 to {len(vocabulary) - 1}"
            raise ApiError(422, "invalid_value", message, param=field)
    ids = np.array(tokens, np.int32)
    return vocabulary.decode(tokens), ids


def stop_ids(stop: Sequence[str], vocabulary: Vocabulary) -> list[list[int]]:
    """The ids of each stop string. Those with a character that the vocabulary lacks cannot occur and are left out."""
    known = set(vocabulary.characters) if stop else set()
    return [vocabulary.encode(string).tolist() for string in stop if known.issuperset(string)]
