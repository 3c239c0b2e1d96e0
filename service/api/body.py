"""Checks of every JSON body: its size in fields and nested values, and its unknown fields, which are rejected or ignored."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from service.api.notes import current

# Pydantic creates one error per invalid field. Without a limit, a body full of invalid fields would take a second.
MAX_FIELDS = 1000  # per object
MAX_PARTS = 50_000  # objects and lists per body
MAX_REPORTED = 20  # ignored fields named in the response header
MAX_ROUNDS = 100  # validations of one body; each finds the unknown fields of one chat message


def _validate(body: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    notes = current.get(None)
    for _ in range(MAX_ROUNDS):
        try:
            return validate(body)
        except ValidationError as error:
            places = [fault["loc"] for fault in error.errors() if fault["type"] == "extra_forbidden"]
            if not places or notes is None or notes.on_unknown_fields == "refuse":
                raise
            for place in places:
                body = _without(body, place)
            notes.ignored_fields = [*dict.fromkeys([*notes.ignored_fields, *(str(place[-1]) for place in places)])][:MAX_REPORTED]
    return validate(body)


def drop_unknown(fields: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The fields of a query, without unknown ones if the server ignores these."""
    notes = current.get(None)
    if notes is None or notes.on_unknown_fields == "refuse":
        return dict(fields)
    notes.ignored_fields += [name for name in fields if name not in known][:MAX_REPORTED]
    return {name: value for name, value in fields.items() if name in known}


def _without(part: Any, place: tuple[int | str, ...]) -> Any:
    """The part of a body without the field at `place`. A list on the way to it loses the field in all its items."""
    head, *rest = place
    if isinstance(part, list):
        return [_without(item, tuple(rest)) for item in part] if isinstance(head, int) else _without(part, tuple(rest))
    if not isinstance(part, dict):
        return part
    if not rest:
        return {name: value for name, value in part.items() if name != head}
    if head in part:
        return part | {head: _without(part[head], tuple(rest))}
    return _without(part, tuple(rest))  # `head` is pydantic's name for a branch of a union


def _limit_size(body: Any) -> Any:
    unseen: list[Any] = [body] if isinstance(body, dict) else []  # pydantic rejects every other type
    seen = 0
    while unseen:
        part, seen = unseen.pop(), seen + 1
        if isinstance(part, dict) and len(part) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", f"an object has {len(part):,} fields, more than {MAX_FIELDS:,}")
        if seen + len(unseen) > MAX_PARTS:
            raise PydanticCustomError("too_many_parts", f"the body has more than {MAX_PARTS:,} objects and lists")
        unseen += [inner for inner in (part.values() if isinstance(part, dict) else part) if isinstance(inner, dict | list)]
    return body


T = TypeVar("T")
JsonBody = Annotated[T, WrapValidator(_validate), BeforeValidator(_limit_size)]
"""The type of an operation's body. It limits the size, and treats unknown fields as the setting `unknown_fields` says."""
