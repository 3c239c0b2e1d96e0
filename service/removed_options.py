"""Options of earlier releases."""

from collections.abc import Mapping, Sequence

REMOVED = {  # with what to use now
    "decoder": "it is --backend now",
    "precision": "every backend computes exactly, with int8 weights",
}


def check_removed(arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    """Raises ValueError if an option of an earlier release is given. The message says what to use now."""
    for name, news in REMOVED.items():
        if any(argument == f"--{name}" or argument.startswith(f"--{name}=") for argument in arguments):
            raise ValueError(f"--{name} was removed: {news}")
        if variables.get(f"SERVICE_{name.upper()}"):
            raise ValueError(f"SERVICE_{name.upper()} was removed: {news}")
