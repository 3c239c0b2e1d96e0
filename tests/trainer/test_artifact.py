import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import Publish, config, random_tensors
from trainer import artifact
from trainer.artifact import Architecture, ArtifactError


def test_a_version_is_read_as_it_was_published(tmp_path: Path, architecture: Architecture) -> None:
    tensors = random_tensors(architecture)
    published = artifact.publish(tmp_path, config(architecture, "bard", recipe="tutorial"), tensors, {"sample.txt": b"text"})
    assert published.path == tmp_path / "bard" / "1"
    assert (published.path / "sample.txt").read_bytes() == b"text"
    assert list(json.loads((published.path / artifact.CONFIG).read_text()))[:3] == ["format", "name", "version"]
    read = artifact.read(published.path)
    assert read.config == published.config
    assert read.config.vocabulary == architecture.vocabulary
    assert read.config.parameters == sum(tensor.size for tensor in tensors.values())
    assert read.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read.tensors[name], tensor)


def test_versions_count_up_and_other_entries_are_not_versions(tmp_path: Path, publish: Publish) -> None:
    assert [publish().config.version for _ in range(3)] == [1, 2, 3]
    for name in ("007", "x", ".publishing-1", "٣"):
        (tmp_path / "tiny" / name).mkdir()
    assert artifact.versions(tmp_path / "tiny") == [1, 2, 3]


def test_a_file_in_a_versions_place_takes_its_number_and_is_refused(tmp_path: Path, publish: Publish) -> None:
    publish()
    (tmp_path / "tiny" / "2").write_text("a file")
    assert publish().config.version == 3
    with pytest.raises(ArtifactError, match=r"tiny/2/config\.json: Not a directory"):
        artifact.read(tmp_path / "tiny" / "2")


def test_a_number_that_is_gone_is_not_given_again_while_a_higher_one_stands(tmp_path: Path, publish: Publish) -> None:
    publish(), publish()
    (tmp_path / "tiny" / "1").rename(tmp_path / "old")
    assert publish().config.version == 3


def test_trainers_that_publish_at_once_get_a_version_each(publish: Publish) -> None:
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda seed: publish(seed=seed), range(16)))
    assert sorted(version.config.version for version in versions) == list(range(1, 17))
    for version in versions:
        assert artifact.read(version.path).config == version.config


def edit(path: Path, **fields: Any) -> None:
    file = path / artifact.CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"format": 2}, "format 2 is unknown; this release reads format 1"),
        ({"format": None}, "format None is unknown"),
        ({"cell": "rnn"}, "cell: Input should be 'gru' or 'lstm'"),
        ({"units": 23}, "parameters is .*, but a network of these sizes has"),
        ({"vocabulary": ["a", "a"]}, "each once"),
        ({"recipe": "\ud800"}, r"'recipe' holds '\\ud800', which UTF-8 can't encode"),
        ({"training": {"seeds": ["\udfff"]}}, r"'training' holds '\\udfff'"),
        ({"packages": {"\ud800": "1"}}, r"'packages' holds '\\ud800'"),
        ({"colour \ud800": "green"}, r"'colour \\ud800' holds '\\ud800'"),
        ({"vocabulary": ["\ud800"]}, r"'vocabulary' holds '\\ud800'"),
        ({"created": "0001-01-01T00:00:00"}, "created: .*'0001-01-01T00:00:00' is not a valid time: year 0 is out of range"),
        ({"created": "yesterday"}, "created: .*'yesterday' is not a valid time"),
        ({"sha256": {"weights": "0" * 64, "corpus": "0" * 64}}, "weights.safetensors: SHA-256 is .*, but config.json says 0000"),
    ],
)
def test_a_config_that_is_not_right_is_refused_with_the_reason(publish: Publish, fields: dict[str, Any], reason: str) -> None:
    path = publish().path
    edit(path, **fields)
    with pytest.raises(ArtifactError, match=reason):
        artifact.read(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"{}"])
def test_a_config_that_is_none_is_refused(publish: Publish, content: bytes) -> None:
    path = publish().path
    (path / artifact.CONFIG).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"config\.json"):
        artifact.read(path)


def test_fields_of_later_releases_are_no_fault(publish: Publish) -> None:
    path = publish().path
    edit(path, colour="green")
    assert artifact.read(path).config.name == "tiny"


def test_scores_as_served_are_read_where_there_are_some(publish: Publish) -> None:
    figures = {"full_pass": 1.5, "cold_256": 1.6}
    earlier, later = (publish(scores=scores).config for scores in (figures, {**figures, "as_served": {**figures, "cold_256": 1.7}}))
    assert (earlier.scores.full_pass, earlier.scores.cold_256, earlier.scores.as_served) == (1.5, 1.6, None)
    assert later.scores.as_served == artifact.Scores(full_pass=1.5, cold_256=1.7)


def test_one_flipped_bit_anywhere_in_the_weights_is_seen_and_a_missing_end(publish: Publish) -> None:
    path = publish().path
    good = (path / artifact.WEIGHTS).read_bytes()
    flipped = [bytearray(good) for _ in range(3)]
    for copy, place in zip(flipped, (0, len(good) // 2, len(good) - 1), strict=True):
        copy[place] ^= 1
    for bad in (*flipped, bytearray(good[:100])):
        (path / artifact.WEIGHTS).write_bytes(bad)
        with pytest.raises(ArtifactError, match="SHA-256"):
            artifact.read(path)


@pytest.mark.parametrize("missing", [artifact.CONFIG, artifact.WEIGHTS])
def test_a_half_written_folder_is_refused(publish: Publish, missing: str) -> None:
    path = publish().path
    (path / missing).unlink()
    with pytest.raises(ArtifactError, match=f"{missing}: No such file"):
        artifact.read(path)


def test_weights_of_a_type_that_numpy_lacks_are_refused(publish: Publish) -> None:
    path = publish().path
    header = b'{"embedding":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    weights = len(header).to_bytes(8, "little") + header + b"\0\0"
    (path / artifact.WEIGHTS).write_bytes(weights)
    edit(path, sha256={"weights": hashlib.sha256(weights).hexdigest(), "corpus": "0" * 64})
    with pytest.raises(ArtifactError, match="a tensor is BF16, expected float32"):
        artifact.read(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop("dense.bias"), "tensor 'dense.bias' is missing"),
        (lambda tensors: tensors.update(extra=np.zeros(1, np.float32)), "tensor 'extra' is not expected"),
        (
            lambda tensors: tensors.update({"dense.bias": np.zeros(1, np.float32)}),
            r"'dense.bias' is float32 \[1\], expected float32 \[",
        ),
        (lambda tensors: tensors.update({"dense.bias": tensors["dense.bias"].astype(np.float16)}), "is float16"),
        (lambda tensors: tensors["embedding"].fill(np.nan), "not finite"),
    ],
)
def test_tensors_that_are_not_the_configs_are_not_published(
    tmp_path: Path, architecture: Architecture, change: Any, reason: str
) -> None:
    tensors = dict(random_tensors(architecture))
    change(tensors)
    with pytest.raises(ArtifactError, match=reason):
        artifact.publish(tmp_path, config(architecture), tensors, {})
    assert list((tmp_path / "tiny").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, architecture: Architecture) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(ArtifactError, match="models/tiny: can't write a version here"):
        artifact.publish(tmp_path / "models", config(architecture), random_tensors(architecture), {})
