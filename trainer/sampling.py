"""Sample texts of a run. The service's own step generates them, so they are what a server would answer."""

from collections.abc import Sequence

from service.generation.core import EngineCore
from service.generation.exact import ExactBackend
from service.generation.native import Library
from service.generation.request import Generation, Prompt
from service.generation.sampling import Sampling
from trainer.artifact import Architecture, Tensors
from trainer.corpus import Corpus
from trainer.vocabulary import Vocabulary


def sample(
    architecture: Architecture,
    tensors: Tensors,
    start: str,
    characters: int,
    temperatures: Sequence[float],
    seed: int,
    library: Library | None,
) -> list[str]:
    """For each temperature, `start` and `characters` more. library: see `trainer.served.find_library`."""
    vocabulary = Vocabulary(architecture.vocabulary)
    core, ids = EngineCore(ExactBackend(architecture, tensors, len(temperatures), library)), vocabulary.encode(start)
    texts = {Generation(Prompt(ids), characters, Sampling(temperature), seed): start for temperature in temperatures}
    core.submit(*texts)
    while core.has_work:
        for output in core.step()[0]:
            texts[output.generation] += vocabulary.decode(output.chunk.characters)
    return list(texts.values())


def opening(text: Corpus, longest: int = 40) -> str:
    """The text's first line with its line ending, at most `longest` characters. Samples start from it."""
    return text.vocabulary.decode(text.ids[:longest].tolist()).splitlines(keepends=True)[0]
