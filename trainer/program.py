"""How a command of this program is written, for usage lines and for messages that suggest a command."""

import shutil
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
    return f"folio {command}" if _is_installed() else MODULES[command]


def invocation(command: str) -> list[str]:
    """The same with the Python that runs this, as it is called in the current folder: `.venv/bin/python` in a clone."""
    if _is_installed():
        return program(command).split()
    python, found = Path(sys.executable), shutil.which("python")
    if found and Path(found).parent == python.parent:
        python = Path("python")
    elif python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return [str(python), *program(command).split()[1:]]


def _is_installed() -> bool:
    return Path(sys.argv[0]).stem == "folio"
