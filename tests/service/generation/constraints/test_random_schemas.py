"""Random schemas: each is refused, or its pattern gives valid JSON and nothing else."""

from collections import Counter
from random import Random
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given, settings

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


@pytest.mark.slow
def test_every_text_is_valid_under_its_random_schema() -> None:
    found: Counter[bool] = Counter()

    @hypothesis.seed(0)  # the same schemas each time, so that the gate does not fail by chance
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(schemas())
    def run(schema: Any) -> None:
        found[check(schema, walks=4)] += 1

    run()
    assert found[True] > 0.6 * EXAMPLES, "most random schemas are not refused, though some allow nothing"
