"""folio models: the models of a folder, with the version of each that a server would try first."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from service import models_folder
from service.settings import settings_here
from trainer import artifact
from trainer.artifact import ArtifactError

HEADINGS = ("NAME", "VERSION", "OTHERS", "NETWORK", "PARAMETERS", "CHARACTERS", "SCORE", "CREATED")

HELP_MODELS_DIR = "folder of the published versions (default: SERVICE_MODELS_DIR, or ./models, or without that the included model)"


def print_models(arguments: Sequence[str]) -> int:
    """Prints a table. Returns 0, or 1 if the folder holds no published version or a version is not valid. Weights are not read."""
    parser = argparse.ArgumentParser(
        prog="folio models",
        description="List the models that `folio serve` would serve. SCORE: nats per character of held-out text (cold_256).",
    )
    parser.add_argument(
        "--models-dir",
        type=Path,
        metavar="DIR",
        help=HELP_MODELS_DIR,
    )
    given: Path | None = parser.parse_args(arguments).models_dir
    try:
        models_dir = settings_here(given).models_dir
    except ValueError as error:
        print(f"folio models: error: {error}", file=sys.stderr)
        return 1
    folders, empty = models_folder.models(models_dir)
    rows: list[tuple[str, ...]] = [HEADINGS]
    faults = [empty] if empty else []
    for folder in filter(models_folder.holds_version, folders):
        try:
            rows.append(_row(folder))
        except (ArtifactError, OSError, ValueError) as error:
            faults.append(str(error))
    if len(rows) > 1:
        print(f"{models_dir}:")
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for fault in faults:
        print(f"folio models: error: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _row(folder: Path) -> tuple[str, ...]:
    """A row for HEADINGS. Raises ArtifactError, OSError or ValueError."""
    best = models_folder.candidates(folder)[0]
    config = artifact.read_config(best)
    models_folder.check_place(best, config)
    others = [str(version) for version in artifact.versions(folder) if version != config.version]
    score = config.scores.cold_256
    return (
        config.name,
        str(config.version),
        " ".join(others) or "-",
        f"{config.cell} {config.layers} x {config.units}",
        f"{config.parameters:,}",
        str(len(config.vocabulary)),
        "-" if score is None else f"{score:.4f}",
        config.created[:10],
    )
