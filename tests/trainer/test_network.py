import numpy as np
import pytest

from tests.support import load_weights
from tests.trainer.conftest import tensors
from trainer import network
from trainer.artifact import Architecture


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("layers", [1, 3])
def test_tensors_have_their_published_names_and_shapes(cell: str, layers: int) -> None:
    architecture = Architecture(cell=cell, layers=layers, units=6, embedding=4, vocabulary=list("abcde"))
    model = network.build(architecture, batch_size=2)
    weights = tensors(model)
    assert {name: tensor.shape for name, tensor in weights.items()} == architecture.tensor_shapes
    assert {tensor.dtype for tensor in weights.values()} == {np.dtype(np.float32)}
    assert architecture.parameter_count == model.count_params()


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_weights_go_from_one_batch_size_to_another(cell: str) -> None:
    architecture = Architecture(cell=cell, layers=2, units=6, embedding=4, vocabulary=list("abcde"))
    many, single = network.build(architecture, batch_size=3), network.build(architecture, batch_size=1)
    load_weights(single, tensors(many))
    ids = np.array([[0, 1, 2, 3, 4]], np.int32)
    np.testing.assert_allclose(single(ids), many(np.repeat(ids, 3, 0))[:1], atol=1e-6)


def test_the_state_is_carried_until_it_is_reset() -> None:
    model = network.build(Architecture(cell="gru", layers=1, units=6, embedding=4, vocabulary=list("abc")), batch_size=1)
    ids = np.array([[0, 1, 2]], np.int32)
    first, second = model(ids).numpy(), model(ids).numpy()
    assert not np.allclose(first, second)
    model.layers[1].reset_state()
    np.testing.assert_array_equal(model(ids), first)
