"""Random schemas: each is refused, or its pattern gives valid JSON and nothing else."""

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

from service.generation.constraints.json_schema import json_pattern
from service.generation.constraints.pattern import UnsupportedConstraint
from tests.service.generation.constraints.schemas import schemas
from tests.service.generation.constraints.walks import SHAKESPEARE, Automaton, validate

EXAMPLES = 150


def check(schema: Any, walks: int) -> bool:
    """Whether the schema has a pattern. Random texts of it are parsed and validated."""
    try:
        pattern = json_pattern(schema, SHAKESPEARE)
    except UnsupportedConstraint:
        return False
    automaton, random = Automaton(pattern), Random(0)
    for _ in range(walks):
        validate(automaton.walk(random), schema)
    return True


@pytest.fixture
def without_local_constants(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hypothesis also draws the constants of all local modules that are imported by now, whatever its seed is."""
    monkeypatch.setattr(providers, "_get_local_constants", Constants)
    providers.CONSTANTS_CACHE.cache.clear()
    yield
    providers.CONSTANTS_CACHE.cache.clear()


@pytest.mark.slow
@pytest.mark.usefixtures("without_local_constants")
def test_every_text_is_valid_under_its_random_schema() -> None:
    found: Counter[bool] = Counter()

    @hypothesis.seed(0)  # the same schemas each time, so that this test does not fail by chance
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(schemas())
    def run(schema: Any) -> None:
        found[check(schema, walks=4)] += 1

    run()
    assert found[True] > 0.6 * EXAMPLES, "most random schemas are not refused, though some allow nothing"
