"""OpenTelemetry: one span per request, configured by its own variables (OTEL_*)."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

PROBES = ("/healthz", "/health", "/ping", "/readyz", "/metrics")  # get no spans
URLS = ("http.url", "http.target", "url.full", "url.query")  # in the old and the new convention


class TracingMissing(Exception):
    """The packages for tracing are not installed."""


def trace(app: FastAPI) -> Callable[[], None]:
    """Instruments the application. Returns a function that sends the remaining spans. Raises TracingMissing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise TracingMissing(f"tracing needs the extra `tracing`: {error}") from error

    provider = TracerProvider(resource=Resource({"service.name": "folio"}).merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=provider,
        excluded_urls=",".join(f"{path}$" for path in PROBES),
        exclude_spans=["receive", "send"],  # otherwise each event of a stream is a span
        server_request_hook=_without_query,
    )
    return provider.shutdown


def _without_query(span: Any, _scope: object) -> None:
    """Removes queries, because they hold start strings and traces must not contain text."""
    for name, value in dict(getattr(span, "attributes", None) or {}).items():  # an unsampled span has none
        if name in URLS:
            span.set_attribute(name, "" if name == "url.query" else str(value).partition("?")[0])
