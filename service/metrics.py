"""Prometheus metrics. Their names are vLLM's, with another prefix, so that dashboards and gateways for vLLM need little change.

A token is a character. As in vLLM, each choice of a request counts as a request of its own, with its own prompt. Metrics of models
have the label `model_name`. Knows nothing of HTTP except the statuses of responses.
"""

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.generation.engine import Engine
from service.generation.output_queue import FinishReason
from service.generation.request import Generation
from service.registry import Registry

LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds
GAPS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)  # seconds per character
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)  # characters

PREFIX = "folio_"
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

    def __init__(self, prefix: str = PREFIX) -> None:
        self._prefix = prefix
        self._metrics = CollectorRegistry()
        ProcessCollector(registry=self._metrics)
        GCCollector(registry=self._metrics)
        self._responses = Counter(f"{prefix}http_responses", "HTTP responses by status.", ["status"], registry=self._metrics)
        for status in (200, 401, 404, 422, 429, 500, 503):
            self._responses.labels(status)  # starts at 0, because Prometheus misses the first rise of a counter that starts at 1

        self._add_counters()
        self._add_histograms()

    def _add_counters(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(full_name(self._prefix, name), text, ["model_name", *labels], registry=self._metrics)

        self.prompt_tokens = counter(
            "prompt_tokens", "Prompt characters of requests that got a slot. Counted once for each choice."
        )
        self.prompt_tokens_cached = counter("prompt_tokens_cached", "Those of them whose state was in the prompt cache.")
        self.generation_tokens = counter("generation_tokens", "Generated characters.")
        self.cache_queries = counter("prompt_cache_queries", "Prompts looked up in the prompt cache.")
        self.cache_hits = counter("prompt_cache_hits", "Prompts found in the prompt cache.")
        self.finished = counter("request_success", "Finished requests by reason. Counted once for each choice.", "finished_reason")

    def _add_histograms(self) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(full_name(self._prefix, name), text, ["model_name"], buckets=buckets, registry=self._metrics)

        self.first = histogram("time_to_first_token_seconds", "Time to first token, from acceptance of the request.", LATENCIES)
        self.gap = histogram("inter_token_latency_seconds", "Time between two deliveries, per character of the second.", GAPS)
        self.queue = histogram("request_queue_time_seconds", "Time in the queue, until the request gets a slot.", LATENCIES)
        self.prefill = histogram("request_prefill_time_seconds", "Time from getting a slot to the first character.", LATENCIES)
        self.decode = histogram("request_decode_time_seconds", "Time from the first character to the last.", LATENCIES)
        self.running = histogram("request_inference_time_seconds", "Time from getting a slot to the last character.", LATENCIES)
        self.whole = histogram("e2e_request_latency_seconds", "Time from acceptance of the request to its end.", LATENCIES)
        self.per_token = histogram(
            "request_time_per_output_token_seconds",
            "Time between two characters of a request, on average.",
            GAPS,
        )
        self.prompt_length = histogram("request_prompt_tokens", "Prompt characters of a request.", LENGTHS)
        self.length = histogram("request_generation_tokens", "Generated characters of a request.", LENGTHS)
        self.rows = histogram("batch_size", "Requests in an iteration of the engine.", SIZES)

    def watch(self, registry: Registry) -> None:
        self._metrics.register(Serving(registry, self._prefix))

    def planned_faults(self, kinds: Iterable[str]) -> Callable[[str], None]:
        """Adds a counter of the faults of these kinds. Returns what increments it."""
        faults = Counter("folio_planned_faults", "Faults and delays of the fault plan.", ["kind"], registry=self._metrics)
        for kind in kinds:
            faults.labels(kind)
        return lambda kind: faults.labels(kind).inc()

    def of(self, model_name: str) -> "ModelMetrics":
        return ModelMetrics(self, model_name)

    def count_response(self, status: int) -> None:
        self._responses.labels(status).inc()

    def exposition(self) -> bytes:
        """Prometheus's text format, version 0.0.4."""
        return generate_latest(self._metrics)


class ModelMetrics:
    """The metrics of one model's engines; see `service.generation.engine.Observer`."""

    def __init__(self, metrics: Metrics, model_name: str) -> None:
        self._prompt_tokens = metrics.prompt_tokens.labels(model_name)
        self._prompt_tokens_cached = metrics.prompt_tokens_cached.labels(model_name)
        self._generation_tokens = metrics.generation_tokens.labels(model_name)
        self._cache_queries = metrics.cache_queries.labels(model_name)
        self._cache_hits = metrics.cache_hits.labels(model_name)
        self._finished: dict[FinishReason, Counter] = {
            reason: metrics.finished.labels(model_name, reason) for reason in ("length", "stop", "time", "cancelled", "error")
        }
        histograms = (metrics.first, metrics.gap, metrics.queue, metrics.prefill, metrics.decode, metrics.whole, metrics.rows)
        self._first, self._gap, self._queue, self._prefill, self._decode, self._whole, self._rows = (
            histogram.labels(model_name) for histogram in histograms
        )
        others = (metrics.running, metrics.per_token, metrics.prompt_length, metrics.length)
        self._running, self._per_token, self._prompt_length, self._length = (one.labels(model_name) for one in others)

    def looked_up(self, hit: bool) -> None:
        self._cache_queries.inc()
        if hit:
            self._cache_hits.inc()

    def iterated(self, rows: int) -> None:
        self._rows.observe(rows)

    def delivered(self, generation: Generation, characters: int, now: float) -> None:
        if generation.last_delivery_at is None:
            self._first.observe(now - generation.arrived_at)
        else:
            self._gap.observe((now - generation.last_delivery_at) / characters)
        self._generation_tokens.inc(characters)

    def ended(self, generation: Generation, reason: FinishReason) -> None:
        now = time.perf_counter()
        self._finished[reason].inc()
        self._whole.observe(now - generation.arrived_at)
        self._queue.observe((generation.scheduled_at or now) - generation.arrived_at)
        if generation.scheduled_at is not None:
            self._prompt_tokens.inc(len(generation.prompt.ids))
            self._prompt_tokens_cached.inc(generation.prompt.num_cached)
            self._prompt_length.observe(len(generation.prompt.ids))
            self._length.observe(generation.num_emitted)
            self._running.observe((generation.finished_at or now) - generation.scheduled_at)
            self._prefill.observe((generation.first_token_at or now) - generation.scheduled_at)
        if generation.first_token_at is not None:
            decode = (generation.finished_at or now) - generation.first_token_at
            self._decode.observe(decode)
            if generation.num_emitted > 1:
                self._per_token.observe(decode / (generation.num_emitted - 1))


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
        for model in self._registry.at_work:
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
