"""python -m tests.option_tables: writes the tables of options into docs/, from the settings themselves."""

import re
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from service.settings import Settings
from trainer.config import TrainingConfig, recipe_values

DOCS = Path(__file__).parents[1] / "docs"
PAGES: dict[str, type[BaseSettings]] = {"operations.md": Settings, "training.md": TrainingConfig}
TABLE = re.compile(r"(?<=<!-- options -->\n).*?(?=<!-- end of options -->)", re.DOTALL)
# Defaults that differ from run to run, by machine, or by folder.
NOT_CONSTANT = {"secret": "random", "corpus": "Shakespeare", "models_dir": "`models`", "teacher": "none"}


def table(settings: type[BaseSettings]) -> str:
    """A Markdown table: a row for each field, in the order of the class."""
    lines = ["| flag | variable | type | default | meaning |", "|---|---|---|---|---|"]
    for name, field in settings.model_fields.items():
        flag, variable = f"--{name.replace('_', '-')}", f"{settings.model_config['env_prefix']}{name}".upper()
        meaning = re.sub(r"[|<*]", r"\\\g<0>", field.description or "")
        lines.append(f"| `{flag}` | `{variable}` | {type_name(field.annotation)} | {default(name, field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def type_name(annotation: Any) -> str:
    """What a user writes: one of some words, a number, a whole number, text, a path, or no value (a switch)."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"{type_name(arguments[0])}, one or more"
    if NoneType in arguments:
        return type_name(next(part for part in arguments if part is not NoneType))
    names = {bool: "switch", int: "whole number", float: "number", Path: "path"}
    return names.get(annotation, "text")


def default(name: str, field: FieldInfo) -> str:
    """Where recipes differ: the default of each recipe."""
    if name in NOT_CONSTANT:
        return NOT_CONSTANT[name]
    if field.default is PydanticUndefined:
        return ", ".join(f"{recipe} `{value}`" for recipe, value in recipe_values(name).items())
    value = getattr(field.default, "get_secret_value", lambda: field.default)()
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in (None, "") else f"`{value}`"


def renewed(page: str) -> str:
    """The page's text with the table as the settings give it."""
    text = (DOCS / page).read_text()
    if not TABLE.search(text):
        raise ValueError(f"docs/{page} has no place for a table of options")
    return TABLE.sub(lambda _: table(PAGES[page]), text)


if __name__ == "__main__":
    for page in PAGES:
        (DOCS / page).write_text(renewed(page))
