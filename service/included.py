"""The model that comes with Folio. It is served where there is no models folder."""

from pathlib import Path

HERE = Path(__file__).parent
FOLDERS = (HERE / "models", HERE.parent / "models")
"""Where the included model is in an installed wheel, and in a clone."""


def included_models() -> Path | None:
    """The folder with the included model, or None in a copy of the code without it."""
    return next((folder for folder in FOLDERS if (folder / "shakespeare").is_dir()), None)


def default_models_dir() -> Path:
    """`models` in the current folder. Without such a folder: the included model's."""
    here = Path("models")
    return here if here.is_dir() else included_models() or here
