"""A published version on disk: models/<name>/<version>/, written whole or not at all, verified before it is trusted.

The one home of the format: config.json (this module's `VersionConfig`) and weights.safetensors, and beside them whatever
the trainer wants people to see. Knows nothing of TensorFlow, so that a server reads versions without it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from trainer.vocabulary import Vocabulary

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "weights.safetensors"
DRAFT = ".publishing-"  # what the name of a version that is being written begins with
GATES = {"gru": 3, "lstm": 4}  # columns of a kernel per unit: GRU z r h, LSTM i f c o

# More than any machine can hold, and few enough that a config.json with absurd sizes is refused at once: a reader lists every
# layer's tensors before it opens the weights. MAX_LAYERS also keeps a batch's draws apart (see trainer.dropout).
MAX_LAYERS, MAX_UNITS = 1000, 1_000_000

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Tensors = Mapping[str, NDArray[np.float32]]


class ArtifactError(Exception):
    """A version can't be read or written; the message says which, and why."""


class Architecture(BaseModel):
    """What fixes a network's shape: its cell, sizes and vocabulary (characters in id order)."""

    model_config = ConfigDict(frozen=True)

    cell: Literal["gru", "lstm"]
    layers: int = Field(ge=1, le=MAX_LAYERS)
    units: int = Field(ge=1, le=MAX_UNITS)
    embedding: int = Field(ge=1, le=MAX_UNITS)
    vocabulary: list[str]

    @model_validator(mode="after")
    def _check_vocabulary(self) -> Self:
        Vocabulary(self.vocabulary)
        return self

    @property
    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Each tensor's name and shape, all float32; kernels, biases and gates as Keras has them."""
        characters, columns = len(self.vocabulary), GATES[self.cell] * self.units
        shapes: dict[str, tuple[int, ...]] = {"embedding": (characters, self.embedding)}
        for i in range(self.layers):
            shapes[f"rnn.{i}.kernel"] = (self.units if i else self.embedding, columns)
            shapes[f"rnn.{i}.recurrent_kernel"] = (self.units, columns)
            shapes[f"rnn.{i}.bias"] = (2, columns) if self.cell == "gru" else (columns,)
        return shapes | {"dense.kernel": (self.units, characters), "dense.bias": (characters,)}

    @property
    def parameter_count(self) -> int:
        return sum(prod(shape) for shape in self.tensor_shapes.values())


class Scores(BaseModel):
    """Held-out nats per character, null where nothing was held out.

    full_pass: state carried over the whole held-out text; cold_256: windows of 256 characters, each from a zero state.
    """

    full_pass: float | None = None
    cold_256: float | None = None


class PublishedScores(Scores):
    """Those of the float32 network as trained; as_served: of the int8 network that the service runs on CPUs.

    `as_served` is null where nothing was held out, and in versions of earlier releases.
    """

    as_served: Scores | None = None


class Hashes(BaseModel):
    weights: Sha256
    corpus: Sha256


class VersionConfig(Architecture):
    """config.json. Fields that a later release adds are kept, not refused: `format` alone says whether it can be read."""

    model_config = ConfigDict(frozen=True, extra="allow")

    format: Literal[1]
    name: ModelName
    version: int = Field(ge=1)
    parameters: int
    characters: int = Field(ge=1)  # of the corpus
    recipe: str
    training: dict[str, Any]
    scores: PublishedScores
    sha256: Hashes
    packages: dict[str, str]
    created: str

    @field_validator("created")
    @classmethod
    def _check_created(cls, value: str) -> str:
        try:
            datetime.fromisoformat(value).timestamp()  # which some that parse have not, those without a time zone above all
        except (ValueError, OverflowError, OSError) as error:
            raise ValueError(f"{value!r} can't be told as a time: {error}") from error
        return value

    @model_validator(mode="after")
    def _check_parameters(self) -> Self:
        if self.parameters != self.parameter_count:
            raise ValueError(f"parameters is {self.parameters:,}, but these sizes make {self.parameter_count:,}")
        return self


@dataclass(frozen=True)
class Version:
    """A version as read: verified, its tensors float32 under the names of `Architecture.tensor_shapes`."""

    path: Path
    config: VersionConfig
    tensors: Tensors


def versions(model: Path) -> list[int]:
    """The version numbers taken in the folder models/<name>, ascending, whether or not the versions are valid.

    None where there is no such folder.
    """
    return sorted(int(path.name) for path in model.iterdir() if is_version(path.name)) if model.is_dir() else []


def find(path: Path) -> Path:
    """The folder of the version that `path` names: models/<name>/<version> itself, or the newest in models/<name>.

    Raises ArtifactError when models/<name> has no version.
    """
    if (path / CONFIG).exists() or not path.is_dir():
        return path
    found = versions(path)
    if not found:
        raise ArtifactError(f"{path}: no version in it")
    return path / str(found[-1])


def read(path: Path) -> Version:
    """Reads and verifies models/<name>/<version>.

    Raises ArtifactError saying what is wrong: a missing file, an unknown format number, a field, a string that UTF-8 can't
    encode, the weights' hash, or a tensor's name, shape, type or values.
    """
    config = read_config(path)
    try:
        data = (path / WEIGHTS).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path / WEIGHTS}: {error.strerror or error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != config.sha256.weights:
        raise ArtifactError(
            f"{path / WEIGHTS}: SHA-256 is {found}, but {CONFIG} says {config.sha256.weights}: damaged or not its own"
        )
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise ArtifactError(f"{path / WEIGHTS}: not safetensors: {error}") from error
    except KeyError as error:  # safetensors' way to say that numpy lacks a type
        raise ArtifactError(f"{path / WEIGHTS}: a tensor is {error.args[0]}, expected float32") from error
    _check_tensors(path / WEIGHTS, config, tensors)
    return Version(path, config, tensors)


def publish(models: Path, config: Mapping[str, Any], tensors: Tensors, extras: Mapping[str, bytes]) -> Version:
    """Writes the next version of models/<config["name"]> and returns it as read back.

    config: the fields of VersionConfig less format, version, parameters and the weights' hash, which are filled in here.
    extras: further files by name. All is written under a temporary name, synced, verified, then renamed: a reader sees all
    of it or none. Raises ArtifactError and leaves nothing behind when that can't be done.
    """
    model = models / str(config["name"])
    try:
        model.mkdir(parents=True, exist_ok=True)
        # Not mkdtemp's 0700: whoever may read the models folder may read a version.
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=model))
        draft.chmod(0o755)
    except OSError as error:
        raise ArtifactError(f"{model}: can't write a version here: {error.strerror or error}") from error
    try:
        weights = save_tensors({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
        for name, data in {WEIGHTS: weights, **extras}.items():
            write_synced(draft / name, data)
        while True:
            version = max(versions(model), default=0) + 1
            write_synced(draft / CONFIG, _config_json(config, version, weights))
            verified = read(draft)
            sync(draft)
            try:
                draft.rename(model / str(version))
            except OSError:
                if (model / str(version)).exists():  # another trainer has just published: take the next number
                    continue
                raise
            sync(model)
            return Version(model / str(version), verified.config, verified.tensors)
    except OSError as error:
        raise ArtifactError(f"{model}: writing a version failed: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def is_version(name: str) -> bool:
    """The name of a folder, as `versions` finds them, is a version's number."""
    return name.isascii() and name.isdigit() and not name.startswith("0")


def read_config(path: Path) -> VersionConfig:
    """Reads and verifies a version's config.json alone. Raises ArtifactError."""
    file = path / CONFIG
    try:
        fields = json.loads(file.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{file}: {error.strerror or error}") from error
    except ValueError as error:
        raise ArtifactError(f"{file}: not JSON: {error}") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        number = fields.get("format") if isinstance(fields, dict) else None
        raise ArtifactError(f"{file}: format {number!r} is unknown; this release reads format {FORMAT}")
    for name, value in fields.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:  # a lone surrogate: JSON can escape it, but nobody could be sent it
            raise ArtifactError(f"{file}: {name!r} holds {error.object[error.start]!r}, which UTF-8 can't encode") from error
    try:
        return VersionConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{file}: {f'{where}: ' if where else ''}{first['msg']}") from error


def _check_tensors(file: Path, architecture: Architecture, tensors: Tensors) -> None:
    expected = architecture.tensor_shapes
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise ArtifactError(f"{file}: tensor {name!r} is {'missing' if name in expected else 'not expected'}")
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or tensor.shape != expected[name]:
            raise ArtifactError(
                f"{file}: tensor {name!r} is {tensor.dtype} {list(tensor.shape)}, expected float32 {list(expected[name])}"
            )
        if not np.isfinite(tensor).all():
            raise ArtifactError(f"{file}: tensor {name!r} holds values that are not finite")


def _config_json(config: Mapping[str, Any], version: int, weights: bytes) -> bytes:
    fields = {"format": FORMAT, **config, "version": version}
    fields["sha256"] = {**config["sha256"], "weights": hashlib.sha256(weights).hexdigest()}
    fields["parameters"] = Architecture.model_validate(fields).parameter_count
    checked = VersionConfig.model_validate(fields)
    return (checked.model_dump_json(indent=2) + "\n").encode()


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Makes the folder's entries durable, where the system can (a folder can't be opened for that on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
