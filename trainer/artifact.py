"""A published version on disk: the folder models/<name>/<version>/. It is written atomically, and verified when it is read.

This module defines the format: config.json (`VersionConfig`), weights.safetensors, and any other files for people to read.
It does not import TensorFlow, so a server can read versions without it.
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
FIRST_FIELDS = ("format", "name", "version")  # of config.json
DRAFT = ".publishing-"  # the prefix of a folder that a version is being written to
GATES = {"gru": 3, "lstm": 4}  # columns of a kernel per unit: GRU z r h, LSTM i f c o

# Larger networks do not fit any machine. Readers list all tensors of all layers before they open the weights, so the limits let
# them reject a config.json with absurd sizes quickly. MAX_LAYERS also keeps the draws of a batch apart (see trainer.dropout).
MAX_LAYERS, MAX_UNITS = 1000, 1_000_000

MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Tensors = Mapping[str, NDArray[np.float32]]


class ArtifactError(Exception):
    """A version can't be read or written. The message says which one and why."""


class Architecture(BaseModel):
    """What determines a network's shape. vocabulary: characters in id order."""

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
        """The name and shape of each tensor. All are float32. Kernels, biases and gates are laid out as in Keras."""
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
    """Held-out nats per character, null if nothing was held out.

    full_pass: with the state carried over the whole held-out text. cold_256: over windows of 256 characters, each from a zero
    state.
    """

    full_pass: float | None = None
    cold_256: float | None = None


class PublishedScores(Scores):
    """The scores of the float32 network as trained. as_served: of the int8 network that the service runs.

    `as_served` is null if nothing was held out, and in versions of earlier releases.
    """

    as_served: Scores | None = None


class Hashes(BaseModel):
    weights: Sha256
    corpus: Sha256


class VersionConfig(Architecture):
    """config.json. Unknown fields are kept, because a later release may add some. Only `format` decides whether it can be read."""

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
            datetime.fromisoformat(value).timestamp()  # fails for some dates that parse, for example the year 1 without a time zone
        except (ValueError, OverflowError, OSError) as error:
            raise ValueError(f"{value!r} is not a valid time: {error}") from error
        return value

    @model_validator(mode="after")
    def _check_parameters(self) -> Self:
        if self.parameters != self.parameter_count:
            raise ValueError(f"parameters is {self.parameters:,}, but a network of these sizes has {self.parameter_count:,}")
        return self


@dataclass(frozen=True)
class Version:
    """A verified version. tensors: float32, by the names of `Architecture.tensor_shapes`."""

    path: Path
    config: VersionConfig
    tensors: Tensors

    @property
    def reference(self) -> dict[str, Any]:
        """What another version's config.json names this one by."""
        return {"name": self.config.name, "version": self.config.version, "weights_sha256": self.config.sha256.weights}


def versions(model: Path) -> list[int]:
    """The version numbers in the folder models/<name>, ascending. The versions may be invalid, and the folder may not exist."""
    return sorted(int(path.name) for path in model.iterdir() if is_version(path.name)) if model.is_dir() else []


def find(path: Path) -> Path:
    """The folder of a version. path: models/<name>/<version>, or models/<name> for its newest version.

    Raises ArtifactError if models/<name> has no version.
    """
    if (path / CONFIG).exists() or not path.is_dir():
        return path
    found = versions(path)
    if not found:
        raise ArtifactError(f"{path}: no version in it")
    return path / str(found[-1])


def read(path: Path) -> Version:
    """Reads and verifies models/<name>/<version>.

    Raises ArtifactError for a missing file, an unknown format number, an invalid field, a string that UTF-8 can't encode, a
    wrong hash of the weights, and a wrong name, shape, type or value of a tensor.
    """
    config = read_config(path)
    try:
        data = (path / WEIGHTS).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path / WEIGHTS}: {error.strerror or error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != config.sha256.weights:
        raise ArtifactError(
            f"{path / WEIGHTS}: SHA-256 is {found}, but {CONFIG} says {config.sha256.weights}; it is damaged or another version's"
        )
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise ArtifactError(f"{path / WEIGHTS}: not safetensors: {error}") from error
    except KeyError as error:  # safetensors raises it for a type that NumPy lacks
        raise ArtifactError(f"{path / WEIGHTS}: a tensor is {error.args[0]}, expected float32") from error
    _check_tensors(path / WEIGHTS, config, tensors)
    return Version(path, config, tensors)


def publish(models: Path, config: Mapping[str, Any], tensors: Tensors, extras: Mapping[str, bytes]) -> Version:
    """Writes the next version of models/<config["name"]>, reads it back and returns it.

    config: the fields of VersionConfig without format, version, parameters and the weights' hash, which are filled in here.
    extras: further files by name. The version is written to a temporary folder, synced, verified and then renamed, so a reader
    never sees a part of it. Raises ArtifactError, and leaves nothing behind, if that fails.
    """
    model = models / str(config["name"])
    try:
        model.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=model))
        draft.chmod(0o755)  # mkdtemp's 0700 would hide the version from other users
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
                if (model / str(version)).exists():  # another trainer has just published: use the next number
                    continue
                raise
            sync(model)
            return Version(model / str(version), verified.config, verified.tensors)
    except OSError as error:
        raise ArtifactError(f"{model}: writing a version failed: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def is_version(name: str) -> bool:
    """Whether a folder's name is a version number."""
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
        except UnicodeEncodeError as error:  # a lone surrogate: JSON can escape it, but no response could contain it
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
    checked = json.loads(VersionConfig.model_validate(fields).model_dump_json())
    ordered = {name: checked[name] for name in FIRST_FIELDS} | checked
    return (json.dumps(ordered, ensure_ascii=False, indent=2) + "\n").encode()


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file and waits until it is on disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Makes the folder's entries durable. Not on Windows, which can't open a folder for that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
