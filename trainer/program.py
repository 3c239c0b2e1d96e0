"""How a command of this program is written, for usage lines and for messages that suggest a command."""

import sys
from pathlib import Path

MODULES = {
    "serve": "python -m service",
    "generate": "python -m service generate",
    "train": "python -m trainer",
    "evaluate": "python -m trainer evaluate",
}


def program(command: str) -> str:
    """`folio train` for the installed command, else `python -m trainer`. A package that was run by uvx has no such `python`."""
    return f"folio {command}" if Path(sys.argv[0]).stem == "folio" else MODULES[command]
