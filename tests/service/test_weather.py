"""Fault plans: what is refused, and the statistics and the reproducibility of their draws."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.fault_plan import InvalidPlan, Latency, Plan, from_header, load
from service.generation.output_queue import Chunk
from service.settings import Settings
from service.weather import PlannedFault, RequestFaults, Weather, draw, duration

SAMPLES = 200_000


def generator() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(1))


def test_latencies_have_the_mean_and_the_deviation_of_the_plan() -> None:
    for kind, mean, stddev in [("normal", 300.0, 40.0), ("lognormal", 300.0, 150.0), ("lognormal", 5.0, 5.0)]:
        latency = Latency.model_validate({"distribution": kind, "mean": mean, "stddev": stddev})
        times = draw(latency, generator(), SAMPLES)
        assert times.mean() == pytest.approx(mean, abs=5 * stddev / SAMPLES**0.5), kind
        assert times.std() == pytest.approx(stddev, rel=0.03), kind
        assert times.min() >= 0
    assert set(draw(Latency(mean=20), generator(), 10)) == {20}


def test_the_median_of_a_lognormal_latency_is_below_its_mean_as_the_formula_says() -> None:
    times = draw(Latency(distribution="lognormal", mean=300, stddev=150), generator(), SAMPLES)
    assert np.median(times) == pytest.approx(300 / (1 + 0.5**2) ** 0.5, rel=0.01)


def test_a_normal_latency_is_never_negative() -> None:
    times = draw(Latency(distribution="normal", mean=10, stddev=50), generator(), SAMPLES)
    assert times.min() == 0
    assert (times == 0).mean() == pytest.approx(NormalDist(10, 50).cdf(0), abs=0.01)


def outcome(weather: Weather, header: str | None = None, model: str = "tiny", tokens: int = 1) -> Any:
    """What the plan has for one request: an error's status, or its break and the times of its characters."""
    faults = RequestFaults(weather, header)
    try:
        faults.begin(model, tokens)
        delays = faults.delays(0)
        return faults.fault and faults.fault.kind, delays and [delays.due(i) for i in range(40)]
    except PlannedFault as error:
        return error.status
    finally:
        faults.close()


PLAN: dict[str, Any] = {
    "seed": 7,
    "ttft_ms": {"distribution": "lognormal", "mean": 100, "stddev": 50},
    "itl_ms": {"distribution": "normal", "mean": 10, "stddev": 3},
    "errors": [{"status": 429, "rate": 0.2}, {"status": 500, "rate": 0.1}],
    "breaks": [{"kind": "cut", "rate": 0.3}, {"kind": "stall", "rate": 0.1}],
}


def weather(**fields: Any) -> Weather:
    return Weather(Plan.model_validate(PLAN | fields), accepts_header=True)


def outcomes(count: int, **fields: Any) -> list[Any]:
    one = weather(**fields)
    return [outcome(one) for _ in range(count)]


def test_the_same_sequence_of_requests_has_the_same_faults() -> None:
    assert outcomes(50) == outcomes(50)
    assert outcomes(50) != outcomes(50, seed=8)
    assert len({str(one) for one in outcomes(50)}) > 10


def test_other_error_rates_change_no_latency_and_no_break() -> None:
    assert [one for one in outcomes(50) if isinstance(one, tuple)] == [
        with_error_free
        for with_error_free, one in zip(outcomes(50, errors=[]), outcomes(50), strict=True)
        if isinstance(one, tuple)
    ]


def test_errors_and_breaks_come_at_their_rates() -> None:
    count = 4000
    found = outcomes(count, ttft_ms=None, itl_ms=None)
    statuses = Counter(one if isinstance(one, int) else one[0] for one in found)
    whole = 0.7
    for kind, rate in {429: 0.2, 500: 0.1, "cut": whole * 0.3, "stall": whole * 0.1, None: whole * 0.6}.items():
        assert abs(statuses[kind] - count * rate) < 5 * (count * rate * (1 - rate)) ** 0.5, kind


def test_a_rate_of_1_is_always_and_of_0_never() -> None:
    assert set(outcomes(200, errors=[{"status": 503, "rate": 0}, {"status": 500}])) == {500}


def test_a_requests_own_seed_makes_it_independent_of_those_before() -> None:
    one = weather(errors=[])
    first = outcome(one, '{"seed": 3}')
    outcome(one)
    assert outcome(one, '{"seed": 3}') == first
    assert outcome(one, '{"seed": 4}') != first


def test_the_fields_of_a_model_and_of_a_request_replace_those_for_all() -> None:
    one = weather(breaks=[], errors=[], ttft_ms=1, itl_ms=1, models={"other": {"itl_ms": 2}})

    def milliseconds(header: str | None, model: str) -> list[int]:
        return [round(1000 * time) for time in outcome(one, header, model)[1][:3]]

    assert milliseconds(None, "tiny") == [1, 2, 3]
    assert milliseconds(None, "other") == [1, 3, 5]
    assert milliseconds('{"itl_ms": 5}', "tiny") == [1, 6, 11]
    assert milliseconds('{"ttft_ms": 5}', "other") == [5, 7, 9]
    assert milliseconds('{"itl_ms": null}', "other") == [1, 1, 1]
    assert outcome(one, '{"ttft_ms": null, "itl_ms": null, "errors": [{"status": 502}]}') == 502
    assert outcome(Weather(one.plan), '{"errors": [{"status": 502}]}') != 502, "the header is not accepted by default"


def test_latencies_grow_with_the_open_requests() -> None:
    one = weather(breaks=[], errors=[], ttft_ms={"mean": 10, "per_running": 7}, itl_ms={"per_running": 2})
    opened = [RequestFaults(one, None) for _ in range(3)]
    for faults in opened:
        faults.begin("tiny", 1)
    assert outcome(one)[1][:3] == pytest.approx([0.031, 0.037, 0.043])
    opened[0].close()
    opened[0].close()
    assert outcome(one)[1][:3] == pytest.approx([0.024, 0.028, 0.032])


@settings(derandomize=True, deadline=None)
@given(st.floats(0, 2), st.integers(0, 2000))
def test_as_many_characters_are_due_as_have_their_time(seconds: float, most: int) -> None:
    faults = RequestFaults(weather(errors=[]), None)
    faults.begin("tiny", 1)
    delays = faults.delays(0)
    assert delays
    times = [delays.due(i) for i in range(most)]
    assert times == sorted(times)
    again = faults.delays(0)
    assert again
    assert again.num_due(seconds, most) == sum(time <= seconds for time in times)


def test_rate_limits_count_down_refuse_and_reset() -> None:
    clock = [0.0]
    one = Weather(Plan.model_validate({"rate_limits": {"requests": 2, "tokens": 100, "counts": True}}), clock=lambda: clock[0])

    def left(tokens: int) -> tuple[Any, ...]:
        faults = RequestFaults(one, None)
        refused = None
        try:
            faults.begin("tiny", tokens)
        except PlannedFault as error:
            refused = error.status, error.retry_after
        parts = ("remaining-requests", "remaining-tokens", "reset-tokens")
        return refused, *(faults.headers[f"x-ratelimit-{part}"] for part in parts)

    assert left(70) == (None, "1", "30", "1m0s")
    clock[0] = 10
    assert left(31) == ((429, 50), "1", "30", "50s")
    assert left(30) == (None, "0", "0", "50s")
    assert left(0) == ((429, 50), "0", "0", "50s")
    clock[0] = 60
    assert left(5) == (None, "1", "95", "1m0s")


def test_durations_are_written_as_openai_does() -> None:
    seconds = (0, 0.0115, 1, 8.64, 59.9999, 86.4, 360, 3600)
    assert [*map(duration, seconds)] == ["0s", "12ms", "1s", "8.64s", "1m0s", "1m26.4s", "6m0s", "1h0m0s"]


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1), st.integers(0, 30))
def test_a_break_is_due_after_so_many_characters_or_at_the_end(sizes: list[int], at: int) -> None:
    text = [*range(sum(sizes))]
    faults = RequestFaults(weather(errors=[], breaks=[{"kind": "cut", "at": at}]), None)
    faults.begin("tiny", 1)

    async def chunks() -> AsyncGenerator[tuple[int, Chunk, bool], None]:
        rest = text
        for i, size in enumerate(sizes):
            yield 0, Chunk(rest[:size]), i == len(sizes) - 1
            rest = rest[size:]

    async def read() -> tuple[list[int], list[int], list[bool]]:
        before: list[int] = []
        after: list[int] = []
        ends = []
        async for _, chunk, ended in faults.split(chunks(), 1):
            (before if faults.fault_at is None else after).extend(chunk.characters)
            ends.append(ended)
        return before, after, ends

    before, after, ends = asyncio.run(read())
    assert before == text[:at]
    assert before + after == text
    assert faults.fault_at == 0
    assert ends.count(True) == 1
    assert ends[-1]


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"ttft": 3}, "ttft: Extra inputs"), ({"seed": -1}, "seed: "), ({"ttft_ms": -1}, "ttft_ms.mean: "),
        ({"itl_ms": {"mean": 1, "stddev": 1}}, "itl_ms: a constant has no stddev"),
        ({"itl_ms": {"distribution": "lognormal"}}, "itl_ms: a lognormal distribution needs a mean"),
        ({"itl_ms": {"distribution": "gamma"}}, "itl_ms.distribution: Input should be 'constant', 'normal' or 'lognormal'"),
        ({"errors": [{"status": 429}, {"status": 200}]}, "errors.1.status: "),
        ({"errors": [{"status": 500, "rate": 2}]}, "errors.0.rate: "),
        ({"errors": [{"status": 500, "rate": 0.6}, {"status": 503, "rate": 0.6}]}, "errors: the rates add up to 1.2"),
        ({"breaks": [{"kind": "burn"}]}, "breaks.0.kind: "),
        ({"breaks": [{"kind": "cut", "seconds": 1}]}, "breaks.0: only a stall has seconds"),
        ({"models": {"tiny": {"startup_seconds": 1}}}, "models.tiny.startup_seconds: Extra inputs"),
        ([], "Input should be a valid dictionary"), ({"ttft_ms": float("inf")}, "ttft_ms.mean: "),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused_by_the_name_of_its_field(tmp_path: Path, plan: Any, said: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    with pytest.raises(ValidationError) as refused:
        Settings(faults=path)
    (error,) = refused.value.errors()
    assert error["loc"] == ("faults",)
    assert f"{path}: {said}" in error["msg"]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    for content, said in [(b"{", "line 1 column 2"), (b"\xff", "utf-8"), (b"[" * 100_000, "recursion")]:
        path.write_bytes(content)
        with pytest.raises(InvalidPlan, match=f"plan: .*{said}"):
            load(path)
    with pytest.raises(InvalidPlan, match="absent: No such file"):
        load(tmp_path / "absent")
    with pytest.raises(InvalidPlan, match="X-Folio-Faults: models: Extra inputs"):
        from_header('{"models": {}}')


def test_a_plan_in_toml_is_that_in_json(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("itl_ms = 5\n[[errors]]\nstatus = 429\n[models.tiny]\nttft_ms = {mean = 3}\n")
    (tmp_path / "plan.json").write_text('{"itl_ms": 5, "errors": [{"status": 429}], "models": {"tiny": {"ttft_ms": 3}}}')
    assert load(tmp_path / "plan.toml") == load(tmp_path / "plan.json")
    (tmp_path / "plan.toml").write_text("itl_ms = [")
    with pytest.raises(InvalidPlan, match=r"plan\.toml: Invalid value"):
        load(tmp_path / "plan.toml")
