"""folio export: writes a published version in formats that other programs read."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from service import models_folder
from service.model_list import HELP_MODELS_DIR
from service.settings import settings_here
from trainer.artifact import ArtifactError
from trainer.tokenizer import tokenizer_json


def export(arguments: Sequence[str]) -> int:
    """Writes the files. Returns 0, or 1 if that fails."""
    options = _options(arguments)
    try:
        settings = settings_here(options.models_dir)
        folder = models_folder.find_model(settings.models_dir, options.model, settings.default_model)
        version = models_folder.read_version(models_folder.candidates(folder)[0])
        if options.tokenizer:
            options.tokenizer.write_bytes(tokenizer_json(version.config.vocabulary))
        if options.onnx:
            try:
                from service.onnx_graph import onnx_bytes
            except ModuleNotFoundError as error:
                raise ValueError("onnx is not installed; install it with `pip install 'folio-rnn[export]'`") from error
            options.onnx.write_bytes(onnx_bytes(version.config, version.tensors))
    except (ArtifactError, ValueError, OSError) as error:
        print(f"folio export: error: {error}", file=sys.stderr)
        return 1
    for file in filter(None, (options.onnx, options.tokenizer)):
        print(f"wrote {file}, from {version.path}")
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="folio export", description="Write a model in formats that other programs read.")
    parser.add_argument(
        "--onnx",
        type=Path,
        metavar="FILE",
        help="one step of the network as it is served: characters [rows] and states [rows, vectors, units] -> logits "
        "[rows, vocabulary] and next_states. The vocabulary is in the file's metadata. Needs the extra `export`",
    )
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="the vocabulary as tokenizer.json of Hugging Face's library")
    parser.add_argument("--model", metavar="NAME", help="the model, where there are several")
    parser.add_argument(
        "--models-dir",
        type=Path,
        metavar="DIR",
        help=HELP_MODELS_DIR,
    )
    options = parser.parse_args(arguments)
    if not options.onnx and not options.tokenizer:
        parser.error("give --onnx FILE, --tokenizer FILE or both")
    return options
