"""python -m trainer evaluate: a published version's scores on a text, or those of the average of several, as JSON."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from numpy.typing import NDArray

from trainer import artifact, corpus
from trainer.artifact import PublishedScores, Version
from trainer.batches import split
from trainer.corpus import Corpus, Newlines, OnUnknown
from trainer.errors import CorpusError, RunConflict
from trainer.importing import importing_tensorflow
from trainer.program import program
from trainer.vocabulary import Vocabulary


def evaluate(arguments: Sequence[str]) -> None:
    """Prints the scores. Raises ArtifactError, CorpusError, RunConflict."""
    given = _parse(arguments)
    versions = [artifact.read(artifact.find(path)) for path in given.model]
    version = versions[0]
    for other in versions[1:]:
        if other.config.vocabulary != version.config.vocabulary:
            raise RunConflict(f"{other.path}: its vocabulary is not that of {version.path}, so their predictions have no average")
    vocabulary = Vocabulary(version.config.vocabulary)
    found = {_newlines_of(one) for one in versions}
    if len(found) > 1 and not given.newlines:
        raise RunConflict("the models were trained with different line endings; give --newlines universal or --newlines keep")
    newlines = given.newlines or found.pop()
    with tempfile.TemporaryDirectory() as folder:
        if given.text is not None:
            text, name = corpus.encode([given.text], vocabulary, Path(folder), newlines, given.on_unknown), str(given.text)
            ids = text.ids
        else:
            text, fraction = _read_own_corpus(versions, vocabulary, Path(folder), newlines)
            ids, name = split(text.ids, fraction)[1], f"the last {100 * fraction:g} % of {corpus.SHAKESPEARE.name}"
        if len(ids) < 2:
            raise CorpusError(f"{name}: scoring needs at least two characters that the model knows")
        if text.converted:
            print(corpus.describe_converted(text.converted), file=sys.stderr)

        scores = _score(versions, ids)
        about: dict[str, Any] = {"model": version.config.name, "version": version.config.version}
        if len(versions) > 1:
            about = {"average_of": [f"{one.config.name}/{one.config.version}" for one in versions]}
        about |= {"text": name, "characters": len(ids), "unknown_characters": text.unknown}
        print(json.dumps(about | scores.model_dump()))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("evaluate"),
        description="Print a version's scores on a text as JSON, in nats per character. full_pass and cold_256 are those of the "
        "float32 network as trained, as_served has those of the int8 network that the service runs.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        action="append",
        help="models/<name>/<version>, or models/<name> for the newest. Given several times, the average of these models' "
        "probabilities is scored",
    )
    parser.add_argument(
        "--text",
        type=Path,
        help="a UTF-8 text file (default, for a version trained on Shakespeare's plays: the part that was held out)",
    )
    parser.add_argument(
        "--on-unknown",
        choices=get_args(OnUnknown),
        default="error",
        help="what to do with characters that are not in the model's vocabulary: fail, skip them, or replace them by spaces "
        "(default: error)",
    )
    parser.add_argument(
        "--newlines",
        choices=get_args(Newlines),
        help="line endings: universal converts CRLF and CR to LF, keep keeps them (default: as in training)",
    )
    given = parser.parse_args(arguments)
    if given.on_unknown != "error" and not given.text:
        parser.error("--on-unknown needs --text")
    return given


def _score(versions: Sequence[Version], ids: NDArray[Any]) -> PublishedScores:
    with importing_tensorflow():
        from trainer.evaluation import Evaluator
        from trainer.scoring import averaged, score
        from trainer.served import find_library, rows_of, served_begin

    library, vocabulary = find_library(partial(print, file=sys.stderr)), len(versions[0].config.vocabulary)
    trained = averaged([Evaluator(version.config).begin(version.tensors) for version in versions])
    served = averaged([served_begin(version.config, version.tensors, library) for version in versions])
    return PublishedScores(
        **score(ids, trained, vocabulary, rows=1).model_dump(), as_served=score(ids, served, vocabulary, rows_of(library))
    )


def _newlines_of(version: Version) -> Newlines:
    """How the version's text was read. Earlier releases kept all line endings, which shows in the vocabulary."""
    recorded: Newlines | None = version.config.training.get("newlines")
    return recorded or ("keep" if "\r" in version.config.vocabulary else "universal")


def _read_own_corpus(versions: Sequence[Version], vocabulary: Vocabulary, folder: Path, newlines: Newlines) -> tuple[Corpus, float]:
    """(Shakespeare's plays, the fraction of them that was held out) for versions trained on them."""
    version = versions[0]
    parts = [(one.config.sha256.corpus, one.config.training.get("held_out")) for one in versions]
    if len(set(parts)) > 1:
        raise RunConflict("the models did not hold out the same text; give a text to score with --text FILE")
    missing = f"{version.path}: its corpus does not come with this package; give a text to score with --text FILE"
    try:
        text = corpus.encode([corpus.SHAKESPEARE], vocabulary, folder, newlines)
    except CorpusError as error:
        raise RunConflict(missing) from error
    if text.sha256 != version.config.sha256.corpus:
        raise RunConflict(missing)
    fraction = float(version.config.training.get("held_out", 0))
    if not fraction:
        raise RunConflict(
            f"{version.path}: was trained on its whole corpus, so a score on it would say nothing about other text; give another "
            "text with --text FILE"
        )
    return text, fraction
