"""The Python API: a published model in this process, without a server.

    from service.generation.generator import Generator

    generator = Generator.load("models/shakespeare")
    print(generator.generate("ROMEO: ", temperature=0.8, seed=1))

The same model, start string, options and seed give the same text as `POST /generate`.
"""

import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import RLock
from typing import Annotated, Any, Literal, NamedTuple, Self, Unpack, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic's condition for Python before 3.12

from service.generation.backends import BackendName, open_backend
from service.generation.constraints.compiler import Compiler, Constrained, Constraint, Kind
from service.generation.core import EngineCore
from service.generation.output_queue import Chunk, FinishReason, concatenated
from service.generation.request import Generation, Prompt
from service.generation.sampling import History, Sampling
from service.generation.scheduler import Output
from service.models_folder import candidates, read_version
from trainer.artifact import CONFIG, ArtifactError, Version
from trainer.vocabulary import Vocabulary

UNLIMITED = 10**9  # generations that may wait for a slot


class Options(TypedDict, total=False):
    """How a text is generated. The options that are not described here are those of `Sampling`."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    num_generate: Annotated[int, Field(ge=1)]  # characters (default: 1000)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None  # modulo 2^64; None and -1 draw one
    stop: str | list[str]  # the text ends before the first of these strings
    allowed_characters: Annotated[str, Field(min_length=1)] | None  # no other characters are generated
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    top_k: Annotated[int, Field(ge=-1)] | None  # 0, -1 and None: all
    top_p: Annotated[float, Field(ge=0, le=1)]
    min_p: Annotated[float, Field(ge=0, le=1)]
    presence_penalty: Annotated[float, Field(ge=-2, le=2)]
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)]
    repetition_penalty: Annotated[float, Field(ge=0.01, le=2)]
    regex: str | None  # the continuation matches it; at most one of these four
    choices: list[str] | None  # the continuation is one of them
    json_schema: dict[str, Any] | None  # the continuation is JSON under this schema
    json_object: bool  # the continuation is a JSON object


OPTIONS = TypeAdapter(Options)


class Score(NamedTuple):
    """How likely a text is."""

    logprobs: NDArray[np.float32]  # [characters - 1]: of each character but the first, after all before it
    nats_per_character: float


class Generator:
    """Generates with one published model. Threads that share it take turns."""

    def __init__(self, version: Version, *, backend: BackendName | Literal["auto"] = "auto", slots: int = 64) -> None:
        """slots: texts that are generated at a time; others wait. Raises Unsupported, and ValueError for less than one slot."""
        if slots < 1:
            raise ValueError(f"slots is {slots}, expected at least 1")
        self.version, self.vocabulary = version, Vocabulary(version.config.vocabulary)
        self.backend = open_backend(version, backend, slots=slots)
        self._core = EngineCore(self.backend, queue_limit=UNLIMITED)
        self._compiler = Compiler()
        self._arrived: dict[Generation, deque[tuple[Chunk, FinishReason | None]]] = {}
        self._abandoned = deque[Generation]()  # of streams that nobody will read
        self._lock = RLock()  # held while the network computes

    @classmethod
    def load(cls, path: str | Path, *, backend: BackendName | Literal["auto"] = "auto", slots: int = 64) -> Self:
        """path: a model's folder, for the version that a server would serve, or a version's folder.

        Raises ArtifactError if there is no valid version, and Unsupported if the backend cannot run here.
        """
        return cls(_read(Path(path).absolute()), backend=backend, slots=slots)

    @overload
    def generate(self, start: str, **options: Unpack[Options]) -> str: ...
    @overload
    def generate(self, start: list[str], **options: Unpack[Options]) -> list[str]: ...
    def generate(self, start: str | list[str], **options: Unpack[Options]) -> str | list[str]:
        """The start string with its continuation. Several start strings are generated together.

        Each text is the same as if it were generated alone. Raises as `stream` does.
        """
        starts = [start] if isinstance(start, str) else start
        with ExitStack() as stack:  # whatever happens, no stream stays behind
            streams = [stack.enter_context(self.stream(one, **options)) for one in starts]
            texts = [one + "".join(stream) for one, stream in zip(starts, streams, strict=True)]
        return texts[0] if isinstance(start, str) else texts

    def stream(self, start: str, **options: Unpack[Options]) -> "TextStream":
        """The continuation of a start string, as it is generated.

        Raises UnknownCharacters for characters that the vocabulary lacks, and ValueError for an option out of range or a constraint
        that is not supported.
        """
        ids = self._encode(start)
        try:
            options = OPTIONS.validate_python(options)
        except ValidationError as error:
            faults = "; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
            raise ValueError(faults) from None
        seed, stop = options.pop("seed", None), options.pop("stop", [])
        num_generate = options.pop("num_generate", 1000)
        constrained = self._constrained(options, num_generate)
        vocabulary = self.vocabulary if constrained is None else constrained.vocabulary
        sampling = self._sampling(options, constrained)
        strings, known = [stop] if isinstance(stop, str) else stop, set(vocabulary.characters)
        generation = Generation(
            prompt=Prompt(ids),
            num_generate=num_generate,
            sampling=sampling,
            seed=secrets.randbelow(2**53) if seed in (None, -1) else seed % 2**64,
            stop=[vocabulary.encode(string).tolist() for string in strings if string and known.issuperset(string)],
            history=History.of(ids, len(self.vocabulary), num_generate) if sampling.needs_history else None,
        )
        self._submit(generation)
        return TextStream(self, generation, vocabulary)

    def score(self, text: str) -> Score:
        """How likely the model finds a text. Raises UnknownCharacters, and ValueError for a text of less than 2 characters."""
        ids = self._encode(text)
        if len(ids) < 2:
            raise ValueError(f"a text of {len(ids)} character cannot be scored: each character is scored after those before it")
        prompt = Prompt(ids, scored=True)
        generation = Generation(prompt, 0, Sampling(), seed=0, top_logprobs=0)
        self._submit(generation)
        try:
            while self._read(generation)[1] is None:
                pass
        finally:
            self._cancel(generation)
        logprobs = concatenated(prompt.log_probabilities).chosen
        return Score(logprobs, -float(logprobs.mean(dtype=np.float64)))

    def _read(self, generation: Generation) -> tuple[Chunk, FinishReason | None]:
        """The next characters of one generation; the reason if they are the last. Advances all generations if necessary."""
        with self._lock:
            self._cancel_abandoned()
            arrived = self._arrived[generation]
            while not arrived:
                for output in self._step():
                    self._arrived[output.generation].append((output.chunk, output.reason))
            chunk, reason = arrived.popleft()
            if reason is not None:
                del self._arrived[generation]
            return chunk, reason

    def _step(self) -> list[Output]:
        try:
            return self._core.step()[0]
        except BaseException:  # Ctrl-C: the network may have gone further than the generations know
            for generation, chunk, reason in self._core.remove_all():
                self._arrived[generation].append((chunk, reason))
            raise

    def _cancel(self, generation: Generation) -> None:
        """Frees its slot. Does nothing if it has finished."""
        with self._lock:
            self._core.cancel(generation)
            self._arrived.pop(generation, None)

    def _abandon(self, generation: Generation) -> None:
        """Cancels it before the next step. The garbage collector may call this in the middle of one, in the same thread."""
        self._abandoned.append(generation)

    def _cancel_abandoned(self) -> None:
        while self._abandoned:
            self._cancel(self._abandoned.popleft())

    def _submit(self, generation: Generation) -> None:
        with self._lock:
            self._cancel_abandoned()
            self._core.submit(generation)
            self._arrived[generation] = deque()

    def _constrained(self, options: Options, num_generate: int) -> Constrained | None:
        """Takes the constraint out of the options and compiles it."""
        given: dict[Kind, Any] = {
            "regex": options.pop("regex", None),
            "choices": options.pop("choices", None),
            "json_schema": options.pop("json_schema", None),
            "json_object": options.pop("json_object", False) or None,
        }
        constraints = [Constraint(kind, value) for kind, value in given.items() if value is not None]
        if len(constraints) > 1:
            raise ValueError(f"{constraints[0].kind} and {constraints[1].kind} cannot be combined")
        if not constraints:
            return None
        constrained = self._compiler.compile(constraints[0], self.vocabulary)
        if constrained.shortest > num_generate:
            raise ValueError(f"num_generate is {num_generate}, but the shortest text has {constrained.shortest} characters")
        return constrained

    def _sampling(self, options: Options, constrained: Constrained | None) -> Sampling:
        characters, allowed = options.pop("allowed_characters", None), None
        if characters is not None:
            if constrained is not None:
                raise ValueError("allowed_characters cannot be combined with a constraint")
            allowed = np.zeros(len(self.vocabulary), bool)
            allowed[self._encode(characters)] = True
        top_k = options.pop("top_k", None)
        automaton = None if constrained is None else constrained.automaton
        return Sampling(**options, top_k=top_k if top_k and top_k > 0 else None, allowed=allowed, automaton=automaton)  # type: ignore[misc]

    def _encode(self, text: str) -> NDArray[np.int32]:
        if not text:
            raise ValueError("the text is empty")
        return self.vocabulary.encode(text)


class TextStream:
    """An iterator over the parts of a text. `close` it, or use it in a `with` block, to end it early."""

    def __init__(self, generator: Generator, generation: Generation, vocabulary: Vocabulary) -> None:
        self.seed = generation.seed
        self.num_generated = 0  # characters so far
        self.finish_reason: FinishReason | None = None  # set with the last part
        self._generator, self._generation, self._vocabulary = generator, generation, vocabulary

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while self.finish_reason is None:
            chunk, self.finish_reason = self._generator._read(self._generation)
            if self.finish_reason == "error":
                raise RuntimeError("the text was ended, because the generation was interrupted: another thread may have got Ctrl-C")
            if chunk.characters:
                self.num_generated += len(chunk.characters)
                return self._vocabulary.decode(chunk.characters)
        raise StopIteration

    def close(self) -> None:
        """Ends the text where it is."""
        if self.finish_reason is None:
            self._generator._cancel(self._generation)
            self.finish_reason = "cancelled"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self.finish_reason is None:
            self._generator._abandon(self._generation)


def _read(path: Path) -> Version:
    """The version in a folder, or the best valid one of a model's folder."""
    if (path / CONFIG).exists():
        return read_version(path)
    if not path.is_dir():
        raise ArtifactError(f"{path}: there is no such folder")
    try:
        versions = candidates(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: {error}") from error
    failure = ArtifactError(f"{path}: holds no published version")
    for index, version in enumerate(versions):
        try:
            return read_version(version)
        except ArtifactError as error:
            failure = failure if index else error
    raise failure
