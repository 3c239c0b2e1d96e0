"""/metrics, read by Prometheus's own parser, and by promtool where there is one."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.settings import Settings
from tests.support import ENDLESS, Publish, serving, stream, wait_until


def samples(client: httpx.Client) -> dict[str, float]:
    """Name and labels -> value, those of the model `tiny` and of none."""
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        " ".join([sample.name, *(value for label, value in sorted(sample.labels.items()) if label != "model_name")]): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if sample.labels.get("model_name", "tiny") == "tiny"
    }


@pytest.fixture
def counted(client: httpx.Client) -> Callable[[], dict[str, float]]:
    """By how much each has risen."""
    before = samples(client)
    return lambda: {name: value - before.get(name, 0) for name, value in samples(client).items()}


@pytest.mark.slow
def test_requests_characters_and_times_are_counted(client: httpx.Client, counted: Callable[[], dict[str, float]]) -> None:
    body: dict[str, Any] = {"start_string": "metrics", "num_generate": 300, "seed": 1}
    text = client.post("/generate", json=body).json()["text"]
    stream(client, **body, stop=text[30:34])
    endless = body | {"num_generate": ENDLESS["num_generate"], "max_time_ms": 1000}
    assert client.post("/generate", json=endless).json()["finish_reason"] == "time"
    client.post("/v1/completions", json={"prompt": "metrics", "n": 2, "max_tokens": 10})
    found = counted()
    assert {reason: found[f"folio_request_success_total {reason}"] for reason in ("length", "stop", "time", "error")} == {
        "length": 3, "stop": 1, "time": 1, "error": 0,
    }  # fmt: skip
    assert found["folio_prompt_tokens_total"] == 5 * 7
    assert found["folio_generation_tokens_total"] >= 300 + 20
    phases = ("queue", "prefill", "decode", "inference")
    for name in ("time_to_first_token", "e2e_request_latency", *(f"request_{phase}_time" for phase in phases)):
        assert found[f"folio_{name}_seconds_count"] == 5
        assert found[f"folio_{name}_seconds_sum"] > 0
    assert found["folio_inter_token_latency_seconds_count"] >= 4
    assert found["folio_batch_size_count"] > 5
    assert found["folio_prompt_cache_hits_total"] >= 2


def test_that_each_choice_counts_is_told(client: httpx.Client, counted: Callable[[], dict[str, float]]) -> None:
    usage = client.post("/v1/completions", json={"prompt": "once", "n": 3, "max_tokens": 2}).json()["usage"]
    found = counted()
    assert (usage["prompt_tokens"], found["folio_prompt_tokens_total"], found["folio_request_success_total length"]) == (4, 12, 3)
    told = {family.name: family.documentation for family in text_string_to_metric_families(client.get("/metrics").text)}
    for name in ("folio_prompt_tokens", "folio_request_success"):
        assert "each choice" in told[name]


def test_embedded_texts_count_as_long_as_they_are(client: httpx.Client, counted: Callable[[], dict[str, float]]) -> None:
    usage = client.post("/v1/embeddings", json={"model": "tiny", "input": ["once", "upon a"]}).json()["usage"]
    assert counted()["folio_prompt_tokens_total"] == counted()["folio_request_prompt_tokens_sum"] == usage["prompt_tokens"] == 10


def test_what_runs_and_waits_shows_and_who_leaves_is_counted(
    client: httpx.Client, engine: Any, counted: Callable[[], dict[str, float]]
) -> None:
    body = {"prompt": "a", "n": 6, "max_tokens": ENDLESS["num_generate"] // 6, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as response:
        received = response.iter_raw()  # kept: httpx closes the connection when its iterator is dropped
        next(received)
        now = samples(client)
        assert now["folio_num_requests_running"] == now["folio_slots"] == 4
        assert now["folio_num_requests_waiting"] == 2
        assert now["folio_slot_usage"] == 1
    wait_until(lambda: counted()["folio_request_success_total cancelled"] == 6)
    assert engine.running == 0
    assert samples(client)["folio_num_requests_running"] == 0


def test_another_prefix_gives_vllms_names(tmp_path: Path, publish: Publish) -> None:
    publish()
    with serving(Settings(models_dir=tmp_path, metrics_prefix="vllm:")) as (_, client):
        client.post("/v1/completions", json={"prompt": "Hark", "max_tokens": 5})
        found = samples(client)
    assert found["vllm:generation_tokens_total"] == found["vllm:request_generation_tokens_sum"] == 5
    assert found["vllm:request_prompt_tokens_sum"] == found["vllm:prompt_tokens_total"] == 4
    assert found["vllm:request_time_per_output_token_seconds_count"] == found["vllm:request_success_total length"] == 1
    # What gateways balance by, and what load tools read.
    assert {
        *("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:prefix_cache_hits_total"),
        *("vllm:time_to_first_token_seconds_count", "vllm:inter_token_latency_seconds_count", "vllm:prefix_cache_queries_total"),
        "vllm:e2e_request_latency_seconds_count",
    } <= found.keys()
    assert not [name for name in found if name.startswith("folio_")]


def test_characters_from_the_prompt_cache_are_counted_and_told(
    client: httpx.Client, counted: Callable[[], dict[str, float]]
) -> None:
    body: dict[str, Any] = {"prompt": "Whence is that knocking?", "max_tokens": 1, "n": 2}
    fresh, again = (client.post("/v1/completions", json=body).json()["usage"] for _ in range(2))
    assert fresh["prompt_tokens_details"] == {"cached_tokens": 0}
    assert again["prompt_tokens_details"] == {"cached_tokens": len(body["prompt"]) - 1}, "the last character is always read"
    assert counted()["folio_prompt_tokens_cached_total"] == 2 * (len(body["prompt"]) - 1)
    with client.stream(
        "POST", "/v1/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}}
    ) as response:
        *_, last, _ = [line for line in response.read().decode().splitlines() if line]
    assert json.loads(last.removeprefix("data: "))["usage"]["prompt_tokens_details"] == again["prompt_tokens_details"]


def test_versions_and_refusals_are_told(tmp_path: Path, publish: Publish) -> None:
    publish()
    with serving(Settings(models_dir=tmp_path, watch=0.05)) as (_, client):
        assert samples(client)["folio_version_info native int8 1"] == 1
        assert samples(client)["folio_refused"] == 0
        shutil.copytree(tmp_path / "tiny/1", tmp_path / ".copy")
        (tmp_path / ".copy").rename(tmp_path / "tiny/2")  # whole, but published under another number
        wait_until(lambda: samples(client)["folio_refused"] == 1)
        assert samples(client)["folio_load_failures_total"] == 1
        publish()
        wait_until(lambda: "folio_version_info native int8 3" in samples(client))
        assert "folio_version_info native int8 1" not in samples(client)
        wait_until(lambda: samples(client)["folio_refused"] == 0)
        (tmp_path / "tiny").rename(tmp_path / ".lost")
        wait_until(lambda: any("continue to be served" in reason for reason in client.get("/models").json()["refused"]))
        assert samples(client)["folio_refused"] >= 1
        (tmp_path / ".lost").rename(tmp_path / "tiny")
        wait_until(lambda: samples(client)["folio_refused"] == 0)


def test_a_replaced_version_counts_while_it_finishes_and_no_counter_falls(tmp_path: Path, publish: Publish) -> None:
    publish()
    limit = ENDLESS["num_generate"]
    settings = Settings(models_dir=tmp_path, watch=0.05, slots=2, max_num_generate=limit)
    with serving(settings) as (_, client):
        stream(client, start_string="ab", num_generate=1)
        with client.stream("POST", "/generate", json=ENDLESS) as response:
            received = response.iter_raw()  # kept: httpx closes the connection when its iterator is dropped
            next(received)
            old = samples(client)
            assert (old["folio_num_requests_running"], old["folio_slots"], old["folio_slot_usage"]) == (1, 2, 0.5)
            publish()
            wait_until(lambda: "folio_version_info native int8 2" in samples(client))
            both = samples(client)
            assert (both["folio_num_requests_running"], both["folio_slots"], both["folio_slot_usage"]) == (1, 4, 0.25)
            assert both["folio_prompt_cache_queries_total"] == 2
        wait_until(lambda: samples(client)["folio_slots"] == 2)
        stream(client, start_string="ab", num_generate=1)
        assert samples(client)["folio_prompt_cache_queries_total"] == 3


def test_answers_are_counted_by_status(client: httpx.Client, counted: Callable[[], dict[str, float]]) -> None:
    client.post("/generate", json={"start_string": "a", "num_generate": 1})
    client.post("/generate", json={"start_string": ""})
    client.get("/models/absent")
    found = counted()
    assert [found[f"folio_http_responses_total {status}"] for status in (200, 422, 404, 429)] == [2, 1, 1, 0], "a scrape is one"


def test_promtool_finds_nothing_to_mend(client: httpx.Client) -> None:
    if not shutil.which("promtool"):
        pytest.skip("no promtool here")
    stream(client, start_string="a", num_generate=10)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=client.get("/metrics").content, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
