"""Prometheus metrics. Their names are vLLM's, with another prefix, so that dashboards and gateways for vLLM need little change.

A token is a character. As in vLLM, each choice of a request counts as a request of its own, with its own prompt. Metrics of models
have the label `model_name`. Knows nothing of HTTP except the statuses of responses.
"""

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.generation.engine import Engine, Observer
from service.generation.output_queue import FinishReason
from service.generation.request import Generation
from service.registry import Registry

LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds
GAPS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)  # seconds per character
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)  # characters

COUNTERS = {
    "prompt_tokens": "Prompt characters of requests that got a slot. Counted once for each choice.",
    "prompt_tokens_cached": "Prompt characters whose state was in the prompt cache. Counted once for each choice.",
    "generation_tokens": "Generated characters.",
    "prompt_cache_queries": "Prompts looked up in the prompt cache.",
    "prompt_cache_hits": "Prompts found in the prompt cache.",
}
HISTOGRAMS = {
    "time_to_first_token_seconds": ("Time to first token, from acceptance of the request.", LATENCIES),
    "inter_token_latency_seconds": ("Time between two deliveries of a stream, divided by the characters of the second.", GAPS),
    "request_queue_time_seconds": ("Time in the queue, until the request gets a slot.", LATENCIES),
    "request_prefill_time_seconds": ("Time from getting a slot to the first character.", LATENCIES),
    "request_decode_time_seconds": ("Time from the first character to the last.", LATENCIES),
    "request_inference_time_seconds": ("Time from getting a slot to the last character.", LATENCIES),
    "e2e_request_latency_seconds": ("Time from acceptance of the request to its end.", LATENCIES),
    "request_time_per_output_token_seconds": ("Time between two characters of a request, on average.", GAPS),
    "request_prompt_tokens": ("Prompt characters of a request.", LENGTHS),
    "request_generation_tokens": ("Generated characters of a request.", LENGTHS),
    "batch_size": ("Requests in an iteration of the engine.", SIZES),
}

VLLM = "vllm:"
VLLM_NAMES = {
    "prompt_cache_queries": "prefix_cache_queries",
    "prompt_cache_hits": "prefix_cache_hits",
    "slot_usage": "kv_cache_usage_perc",
}


def full_name(prefix: str, name: str) -> str:
    """A metric's name. With vLLM's own prefix, metrics that come close to one of vLLM have its name."""
    return prefix + (VLLM_NAMES.get(name, name) if prefix == VLLM else name)


class Metrics:
    """Counters and histograms of the engines, and gauges of the registry that are read at each scrape."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._metrics = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._responses = Counter(f"{prefix}http_responses", "HTTP responses by status.", ["status"], registry=registry)
        for status in (200, 401, 404, 422, 429, 500, 503):
            self._responses.labels(status)  # starts at 0, because Prometheus misses the first rise of a counter that starts at 1
        self.counters = {
            name: Counter(full_name(prefix, name), text, ["model_name"], registry=registry) for name, text in COUNTERS.items()
        }
        self.finished = Counter(
            full_name(prefix, "request_success"),
            "Finished requests by reason. Counted once for each choice.",
            ["model_name", "finished_reason"],
            registry=registry,
        )
        self.histograms = {
            name: Histogram(full_name(prefix, name), text, ["model_name"], buckets=buckets, registry=registry)
            for name, (text, buckets) in HISTOGRAMS.items()
        }

    def watch(self, registry: Registry) -> None:
        self._metrics.register(Serving(registry, self._prefix))

    def planned_faults(self, kinds: Iterable[str]) -> Callable[[str], None]:
        """Adds a counter of the faults of these kinds. Returns what increments it."""
        name = full_name(self._prefix, "planned_faults")
        faults = Counter(name, "Faults and delays of the fault plan.", ["kind"], registry=self._metrics)
        for kind in kinds:
            faults.labels(kind)
        return lambda kind: faults.labels(kind).inc()

    def count_response(self, status: int) -> None:
        self._responses.labels(status).inc()

    def exposition(self) -> bytes:
        """Prometheus's text format, version 0.0.4."""
        return generate_latest(self._metrics)


class ModelMetrics(Observer):
    """The metrics of one model's engines."""

    def __init__(self, metrics: Metrics, model_name: str) -> None:
        self._counters = {name: counter.labels(model_name) for name, counter in metrics.counters.items()}
        self._histograms = {name: histogram.labels(model_name) for name, histogram in metrics.histograms.items()}
        self._finished: dict[FinishReason, Counter] = {
            reason: metrics.finished.labels(model_name, reason) for reason in ("length", "stop", "time", "cancelled", "error")
        }

    def looked_up(self, prompts: int, hits: int) -> None:
        self._counters["prompt_cache_queries"].inc(prompts)
        self._counters["prompt_cache_hits"].inc(hits)

    def iterated(self, rows: int) -> None:
        self._histograms["batch_size"].observe(rows)

    def delivered(self, generation: Generation, characters: int, now: float) -> None:
        if generation.last_delivery_at is None:
            self._histograms["time_to_first_token_seconds"].observe(now - generation.arrived_at)
        else:
            self._histograms["inter_token_latency_seconds"].observe((now - generation.last_delivery_at) / characters)
        self._counters["generation_tokens"].inc(characters)

    def ended(self, generation: Generation, reason: FinishReason) -> None:
        now = time.perf_counter()
        times, prompt = generation.times(now), generation.prompt
        self._finished[reason].inc()
        self._histograms["e2e_request_latency_seconds"].observe(now - generation.arrived_at)
        self._histograms["request_queue_time_seconds"].observe(times.queue)
        if times.prefill is not None:
            self._counters["prompt_tokens"].inc(prompt.num_characters)
            self._counters["prompt_tokens_cached"].inc(prompt.num_cached)
            self._histograms["request_prompt_tokens"].observe(prompt.num_characters)
            self._histograms["request_generation_tokens"].observe(generation.num_emitted)
            self._histograms["request_inference_time_seconds"].observe(times.prefill + (times.decode or 0))
            self._histograms["request_prefill_time_seconds"].observe(times.prefill)
        if times.decode is not None:
            self._histograms["request_decode_time_seconds"].observe(times.decode)
            if generation.num_emitted > 1:
                self._histograms["request_time_per_output_token_seconds"].observe(times.decode / (generation.num_emitted - 1))


class Serving(Collector):
    """The registry's state at the moment of a scrape. A replaced engine counts together with the new one until it is freed."""

    def __init__(self, registry: Registry, prefix: str) -> None:
        self._registry, self._prefix = registry, prefix

    def collect(self) -> Iterable[Metric]:
        yield from self._of_models()
        refusals, refused = self._registry.refusals, "versions, chat templates and folders"
        yield CounterMetricFamily(self._name("load_failures"), f"Refused {refused} so far.", value=refusals.count)
        yield GaugeMetricFamily(self._name("refused"), f"Refused {refused} now.", value=len(refusals.reasons))

    def _of_models(self) -> Iterable[Metric]:
        label = ["model_name"]
        running = GaugeMetricFamily(self._name("num_requests_running"), "Requests that have a slot.", labels=label)
        waiting = GaugeMetricFamily(self._name("num_requests_waiting"), "Requests that are waiting for a slot.", labels=label)
        limit = GaugeMetricFamily(self._name("queue_limit"), "Most requests that may wait for a slot.", labels=label)
        slots = GaugeMetricFamily(self._name("slots"), "Number of slots.", labels=label)
        usage = GaugeMetricFamily(self._name("slot_usage"), "Fraction of the slots that are in use.", labels=label)
        info = GaugeMetricFamily(
            self._name("version_info"), "1 for the version that is served.", labels=["model_name", "version", "engine", "precision"]
        )
        engines: dict[str, list[Engine]] = {}
        for model in self._registry.loaded_and_replaced:
            engines.setdefault(model.config.name, []).append(model.engine)
        for name, together in engines.items():
            busy, there = sum(engine.running for engine in together), sum(engine.slots for engine in together)
            running.add_metric([name], busy)
            waiting.add_metric([name], sum(engine.waiting for engine in together))
            slots.add_metric([name], there)
            usage.add_metric([name], busy / there)
        for model in self._registry.loaded:
            limit.add_metric([model.config.name], model.engine.queue_limit)
            info.add_metric([model.config.name, str(model.config.version), model.engine_name, model.precision], 1)
        return running, waiting, limit, slots, usage, info

    def _name(self, name: str) -> str:
        return full_name(self._prefix, name)
