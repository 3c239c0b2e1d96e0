"""The type of JSON bodies: limits their number of fields, and refuses or ignores unknown fields."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from service.api.notes import current

# Pydantic creates an error for each wrong field, which takes a second for a body full of them.
MAX_FIELDS, MAX_PARTS = 1000, 50_000  # in an object; objects and lists in a body
MAX_NAMED = 20  # ignored fields
MAX_ROUNDS = 100  # of validation, each of which finds the unknown fields of one chat message


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
            notes.ignored_fields = [*dict.fromkeys([*notes.ignored_fields, *(str(place[-1]) for place in places)])][:MAX_NAMED]
    return validate(body)


def drop_unknown(fields: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The fields of a query, without unknown ones if these are ignored."""
    notes = current.get(None)
    if notes is None or notes.on_unknown_fields == "refuse":
        return dict(fields)
    notes.ignored_fields += [name for name in fields if name not in known][:MAX_NAMED]
    return {name: value for name, value in fields.items() if name in known}


def _without(part: Any, place: tuple[int | str, ...]) -> Any:
    """The part of a body without the field at that path, in every item of the lists on the path."""
    head, *rest = place
    if isinstance(part, list):
        return [_without(item, tuple(rest)) for item in part] if isinstance(head, int) else _without(part, tuple(rest))
    if not isinstance(part, dict):
        return part
    if not rest:
        return {name: value for name, value in part.items() if name != head}
    if head in part:
        return part | {head: _without(part[head], tuple(rest))}
    return _without(part, tuple(rest))  # `head` is not a field but pydantic's name for a branch of a union


def _with_few_fields(body: Any) -> Any:
    unseen: list[Any] = [body] if isinstance(body, dict) else []  # another type is refused anyway
    seen = 0
    while unseen:
        part, seen = unseen.pop(), seen + 1
        if isinstance(part, dict) and len(part) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", f"an object has {len(part):,} fields, more than {MAX_FIELDS}")
        if seen + len(unseen) > MAX_PARTS:
            raise PydanticCustomError("too_many_parts", f"there are more than {MAX_PARTS:,} objects and lists")
        unseen += [inner for inner in (part.values() if isinstance(part, dict) else part) if isinstance(inner, dict | list)]
    return body


T = TypeVar("T")
JsonBody = Annotated[T, WrapValidator(_validate), BeforeValidator(_with_few_fields)]
"""The type of a path operation's body."""
