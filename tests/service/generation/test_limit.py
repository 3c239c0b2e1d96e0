"""The machine's limit, which benchmarks compare the engine with, is built from the engine's own step."""

import pytest

from benchmarks.limit import Limit
from service.generation.backends import Unsupported
from service.generation.kernel.build import NoCompiler
from tests.support import ARCHITECTURE, random_tensors


def test_the_limit_is_measured() -> None:
    try:
        limit = Limit(ARCHITECTURE, random_tensors(ARCHITECTURE))
    except (Unsupported, NoCompiler) as error:
        pytest.skip(str(error))
    assert limit.rate(1, 0.01) > 0
