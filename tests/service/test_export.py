"""folio export: the ONNX file computes the reference backend's bits, and the tokenizer file is the vocabulary."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from service.export import export
from service.generation import reference
from service.generation.generator import Generator
from service.generation.quantized import quantize
from service.included import included_models
from tests.support import ARCHITECTURE, Publish, random_tensors
from trainer.artifact import Architecture
from trainer.vocabulary import Vocabulary

Floats = NDArray[np.float32]
ROWS, STEPS = 3, 30


def open_session(file: Path) -> Any:
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.fixture(params=[("gru", 1), ("gru", 2), ("lstm", 2)], ids=lambda param: f"{param[0]} {param[1]}")
def architecture(request: pytest.FixtureRequest) -> Architecture:
    cell, layers = request.param
    return ARCHITECTURE.model_copy(update={"cell": cell, "layers": layers})


def test_onnx_gives_the_bits_of_the_reference_backend(
    architecture: Architecture, publish: Callable[..., Any], tmp_path: Path
) -> None:
    publish(architecture=architecture, seed=4)
    assert export(["--onnx", str(tmp_path / "step.onnx"), "--models-dir", str(tmp_path)]) == 0
    session, network = open_session(tmp_path / "step.onnx"), quantize(architecture, random_tensors(architecture, 4))
    rng, states = np.random.default_rng(1), np.zeros((ROWS, *network.state_shape), np.float32)
    for _ in range(STEPS):
        characters = rng.integers(network.vocabulary, size=ROWS, dtype=np.int32)
        logits, after = session.run(None, {"characters": characters.astype(np.int64), "states": states})
        expected, expected_logits = reference.step(network, states, characters, np.zeros(ROWS, np.bool_))
        np.testing.assert_array_equal(after, expected)
        np.testing.assert_array_equal(logits, expected_logits)
        states = after


def test_the_onnx_file_says_whose_step_it_is(publish: Publish, tmp_path: Path) -> None:
    publish("dao")
    publish("dao", seed=1)
    assert export(["--onnx", str(tmp_path / "step.onnx"), "--models-dir", str(tmp_path)]) == 0
    about = open_session(tmp_path / "step.onnx").get_modelmeta().custom_metadata_map
    assert (about["name"], about["version"]) == ("dao", "2")
    assert json.loads(about["vocabulary"]) == ARCHITECTURE.vocabulary


@pytest.mark.slow
def test_a_text_can_be_generated_with_the_file_alone(tmp_path: Path) -> None:
    """The included model, always the likeliest character, as by temperature 0."""
    assert export(["--onnx", str(tmp_path / "step.onnx")]) == 0
    session = open_session(tmp_path / "step.onnx")
    vocabulary = Vocabulary(json.loads(session.get_modelmeta().custom_metadata_map["vocabulary"]))
    _, *shape = session.get_inputs()[1].shape
    state, text = np.zeros((1, *shape), np.float32), "ROMEO:\n"
    for character in vocabulary.encode(text):
        logits, state = session.run(None, {"characters": np.array([character], np.int64), "states": state})
    for _ in range(300):
        likeliest = int(logits[0].argmax())
        text += vocabulary.decode([likeliest])
        logits, state = session.run(None, {"characters": np.array([likeliest], np.int64), "states": state})
    generator = Generator.load(str(included_models()) + "/shakespeare", slots=1)
    assert text == "ROMEO:\n" + "".join(generator.stream("ROMEO:\n", num_generate=300, temperature=0))


def test_the_tokenizer_file_is_the_vocabulary(publish: Publish, tmp_path: Path) -> None:
    publish("dao")
    assert export(["--tokenizer", str(tmp_path / "tokenizer.json"), "--models-dir", str(tmp_path)]) == 0
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(vocabulary, key=vocabulary.__getitem__) == ARCHITECTURE.vocabulary


def test_an_export_that_fails_is_one_line(publish: Publish, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish("dao")
    assert export(["--tokenizer", str(tmp_path / "t.json"), "--models-dir", str(tmp_path), "--model", "tao"]) == 1
    assert capsys.readouterr().err == f"folio export: error: no model 'tao' in {tmp_path}; there are: dao\n"
    with pytest.raises(SystemExit):
        export(["--models-dir", str(tmp_path)])
    assert "give --onnx FILE" in capsys.readouterr().err
