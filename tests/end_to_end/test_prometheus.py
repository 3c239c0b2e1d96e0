"""A real Prometheus on what observe/ has for it: the dashboard's queries and the alerts, against a server with something to do."""

import json
import math
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.settings import Settings
from tests.ports import free_port
from tests.support import Publish, serving, stream, wait_until

OBSERVE = Path(__file__).parents[2] / "observe"
CONFIG, ALERTS = OBSERVE / "prometheus.yml", OBSERVE / "alerts.yml"
ALERT_NAMES = set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
DASHBOARD: dict[str, Any] = json.loads((OBSERVE / "grafana" / "folio.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {"$__rate_interval": "30s", "$__range": "1h", "$model_name": "tiny"}  # as Grafana would put them in

Ask = Callable[..., Any]


def program(name: str) -> str:
    if found := shutil.which(name):
        return found
    pytest.skip(f"no {name} here")


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def with_variables(query: str) -> str:
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query
    return query


def metrics_in(query: str) -> set[str]:
    """Names that look like ours, and all that have a selector or a range behind them."""
    return set(re.findall(r"\b(?:folio|process)_\w+|\w+(?=[{[])", query))


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Ask]:
    """Prometheus with our configuration, but for the target and how often it is looked at; how to ask its HTTP API."""
    config = CONFIG.read_text()
    for ours, here in {"api:8000": target, "5s": "1s"}.items():
        assert ours in config
        config = config.replace(ours, here)
    (folder / CONFIG.name).write_text(config)
    shutil.copy(ALERTS, folder)
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={folder / CONFIG.name}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    log = folder / "prometheus.log"
    with (
        log.open("wb") as output,
        subprocess.Popen([program("prometheus"), *options], stdout=output, stderr=output) as process,
        httpx.Client(base_url=f"http://{address}", timeout=60) as client,
    ):

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return client.get("/-/ready").status_code == 200
            except httpx.TransportError:
                return False

        def ask(what: str, **parameters: str) -> Any:
            answer = client.get(f"/api/v1/{what}", params=parameters).json()
            if answer["status"] != "success":
                pytest.fail(f"{parameters}: {answer}")
            return answer["data"]

        try:
            wait_until(ready)
            yield ask
        finally:
            process.kill()


@contextmanager
def load(address: httpx.URL, streams: int) -> Iterator[None]:
    """So many readers, each of one stream after another, until the end."""
    enough = threading.Event()

    def read(reader: int) -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            for seed in range(100_000):
                if enough.is_set():
                    return
                stream(client, start_string=f"reader {'abc'[reader % 3]}", num_generate=2_000, seed=seed)

    with ThreadPoolExecutor(streams) as pool:
        readers = [pool.submit(read, reader) for reader in range(streams)]
        try:
            yield
        finally:
            enough.set()
        for reader in readers:
            reader.result()


def test_promtool_finds_nothing_to_mend_in_the_configuration_and_the_alerts() -> None:
    promtool("check", "config", CONFIG)
    promtool("check", "rules", ALERTS)


def test_the_dashboard_can_be_provisioned() -> None:
    """No Grafana is asked here: only whether datasource, ids and places fit together."""
    provisioned = (OBSERVE / "grafana" / "datasources.yml").read_text()
    (variable,) = DASHBOARD["templating"]["list"]
    assert (DASHBOARD["uid"], variable["name"]) == ("folio", "model_name")
    for part in (variable, *PANELS):
        assert part["datasource"]["type"] == "prometheus"
        assert f"uid: {part['datasource']['uid']}\n" in provisioned
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = [
        (grid["x"] + x, grid["y"] + y)
        for grid in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(grid["w"])
        for y in range(grid["h"])
    ]
    assert len(set(cells)) == len(cells)  # nothing lies on anything
    assert max(x for x, _ in cells) < 24


def test_prometheus_finds_under_load_all_that_dashboard_and_alerts_ask_for(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, publish: Publish
) -> None:
    served = publish()
    settings = Settings(models_dir=tmp_path, watch=0.05, slots=2)
    with (
        serving(settings) as (_, client),
        prometheus(tmp_path_factory.mktemp("prometheus"), client.base_url.netloc.decode()) as ask,
    ):

        def shows(query: str) -> bool:
            """There is a finite value above 0. No query is let off: all that is asked for happens here."""
            samples = ask("query", query=with_variables(query))["result"]
            return any(0 < float(sample["value"][1]) < math.inf for sample in samples)

        wait_until(lambda: shows('up{job="folio"}'))
        shutil.copytree(served.path, served.path.parent / "2")  # is refused, for that is not its number; so there is an alert too
        with load(client.base_url, streams=6):
            missing = [*QUERIES]

            def none_is_missing() -> bool:
                missing[:] = [query for query in missing if not shows(query)]
                return not missing

            try:
                wait_until(none_is_missing, seconds=300)
            except AssertionError:
                pytest.fail("nothing above 0 for " + "\n".join(missing))

            # Prometheus itself has asked what the alerts ask; they need not be true.
            wait_until(lambda: {rule["health"] for rule in ask("rules")["groups"][0]["rules"]} == {"ok"})
            alerts = {rule["name"]: rule["query"] for rule in ask("rules")["groups"][0]["rules"]}
            assert alerts.keys() == ALERT_NAMES

        (variable,) = DASHBOARD["templating"]["list"]
        values = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert values
        assert ask(f"label/{values[2]}/values", **{"match[]": values[1]}) == ["tiny"]

        exposed = {
            sample.name for family in text_string_to_metric_families(client.get("/metrics").text) for sample in family.samples
        }
        own = {"up", "ALERTS"}  # Prometheus's
        for query in (*QUERIES, *alerts.values(), variable["query"]["query"]):
            assert metrics_in(query), query
            assert metrics_in(query) <= exposed | own


LABELS = 'instance="api:8000", job="folio"'
MODEL = f'{LABELS}, model_name="tiny"'
QUEUE, GAP = "folio_request_queue_time_seconds_bucket", "folio_inter_token_latency_seconds_bucket"
FINE = {  # series and their samples, one every 5 s, as promtool wants them: 0+10x180 is 0, 10, 20 and so on
    f"up{{{LABELS}}}": "1x180",
    f"folio_refused{{{LABELS}}}": "0x180",
    f'folio_version_info{{{MODEL}, version="1"}}': "1x180",
    f"folio_num_requests_running{{{MODEL}}}": "2x180",
    f"folio_num_requests_waiting{{{MODEL}}}": "9x180",
    f"folio_queue_limit{{{MODEL}}}": "512x180",
    f'folio_http_responses_total{{{LABELS}, status="200"}}': "0+10x180",
    f'folio_http_responses_total{{{LABELS}, status="429"}}': "0x180",
    f"folio_batch_size_count{{{MODEL}}}": "0+10x180",
    f'folio_request_success_total{{{MODEL}, finished_reason="length"}}': "0+10x180",
    f'folio_request_success_total{{{MODEL}, finished_reason="error"}}': "0x180",
    f'{QUEUE}{{{MODEL}, le="1.0"}}': "0+10x180",
    f'{QUEUE}{{{MODEL}, le="10.0"}}': "0+10x180",
    f'{QUEUE}{{{MODEL}, le="+Inf"}}': "0+10x180",
    f'{GAP}{{{MODEL}, le="0.001"}}': "0+10x180",
    f'{GAP}{{{MODEL}, le="0.1"}}': "0+10x180",
    f'{GAP}{{{MODEL}, le="+Inf"}}': "0+10x180",
}
NOT_FINE = {  # an alert, and what makes it fire, alone
    "FolioDown": {**dict.fromkeys(FINE, "_x180"), f"up{{{LABELS}}}": "0x180"},
    "FolioServesNothing": {**dict.fromkeys(FINE, "_x180"), f"up{{{LABELS}}}": "1x180"},
    "FolioStalled": {f"folio_batch_size_count{{{MODEL}}}": "7x180"},
    "FolioFails": {f'folio_request_success_total{{{MODEL}, finished_reason="error"}}': "0x175 1x5"},
    "FolioVersionRefused": {f"folio_refused{{{LABELS}}}": "1x180"},
    "FolioQueueNearlyFull": {f"folio_num_requests_waiting{{{MODEL}}}": "500x180"},
    "FolioTurnsAway": {f'folio_http_responses_total{{{LABELS}, status="429"}}': "0x175 1x5"},
    "FolioWaitsLong": {f'{QUEUE}{{{MODEL}, le="1.0"}}': "0+8x180"},
    "FolioStreamsSlowly": {f'{GAP}{{{MODEL}, le="0.001"}}': "0+8x180"},
}


@pytest.mark.parametrize("alert", [None, *sorted(ALERT_NAMES)])
def test_an_alert_fires_when_it_should_and_then_only(tmp_path: Path, alert: str | None) -> None:
    series = FINE | (NOT_FINE[alert] if alert else {})
    firing = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else []
    asked = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "15m", "exp_samples": firing}
    tests = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "5s",
        "tests": [
            {
                "interval": "5s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [asked],
            }
        ],
    }
    (tmp_path / "tests.yml").write_text(json.dumps(tests))  # JSON is YAML
    promtool("test", "rules", tmp_path / "tests.yml")
