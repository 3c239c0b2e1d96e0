"""OpenTelemetry: a span a request, made and sent by its own instrumentation, set up by its own variables (OTEL_...)."""

from collections.abc import Callable

from fastapi import FastAPI


class TracingMissing(Exception):
    """The packages that send traces are not installed."""


def trace(app: FastAPI) -> Callable[[], None]:
    """Instruments the application; what is returned sends what is left, at the end. Raises TracingMissing."""
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
        excluded_urls="healthz,readyz,metrics",
        exclude_spans=["receive", "send"],  # else one for every event of a stream
    )
    return provider.shutdown
