"""Traces as a collector gets them: OTLP over HTTP, to a socket."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.settings import Settings
from tests.support import Publish, serving, stream

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The requests that a collector has got."""
    requests: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        yield requests
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_a_request_is_one_span_of_the_callers_trace_and_none_is_lost_at_the_end(
    tmp_path: Path, publish: Publish, received: list[Any]
) -> None:
    publish()
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    with serving(Settings(models_dir=tmp_path, tracing=True)) as (_, client):
        assert client.post("/generate", json={"start_string": "a", "num_generate": 5}, headers=headers).status_code == 200
        stream(client, start_string="a", num_generate=500)
        for probe in ("/metrics", "/healthz", "/health", "/ping", "/readyz"):
            assert client.get(probe).status_code == 200
    spans = [span for one in received for resource in one.resource_spans for scope in resource.scope_spans for span in scope.spans]
    assert [span.name for span in spans] == ["POST /generate", "POST /generate"], "no span an event, none of probes"
    assert spans[0].trace_id.hex() == TRACE
    assert spans[1].trace_id.hex() != TRACE
    said = {attribute.key: attribute.value for attribute in received[0].resource_spans[0].resource.attributes}
    assert said["service.name"].string_value == "folio"
    assert said["deployment.environment"].string_value == "test"


@pytest.mark.slow
@pytest.mark.parametrize("convention", ["", "http", "http/dup"])
def test_no_text_is_sent(
    tmp_path: Path, publish: Publish, received: list[Any], monkeypatch: pytest.MonkeyPatch, convention: str
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", convention)
    monkeypatch.setattr(_OpenTelemetrySemanticConventionStability, "_initialized", False)  # the variable is read once
    publish()
    with serving(Settings(models_dir=tmp_path, tracing=True)) as (_, client):
        assert client.get("/generate", params={"start_string": "Sesame?Sesame", "num_generate": 1}).status_code == 200
        client.post("/generate", json={"start_string": "Sesame1"})
    sent = b"".join(one.SerializeToString() for one in received)
    assert b"/generate" in sent
    assert b"Sesame" not in sent


def test_without_it_nothing_is_sent(tmp_path: Path, publish: Publish, received: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")  # FastAPI's own telemetry sends queries
    publish()
    with serving(Settings(models_dir=tmp_path)) as (_, client):
        assert client.get("/generate", params={"start_string": "a", "num_generate": 5}).status_code == 200
    assert received == []
