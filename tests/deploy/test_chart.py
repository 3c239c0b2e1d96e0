"""The Helm chart, rendered with several sets of values: each object is valid for Kubernetes, and they fit together.

Not checked here, for want of `helm`: `helm lint`, and what Helm does besides rendering.
"""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import Settings
from tests.deploy.helm_template import NotSupported, render
from trainer import __version__

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "folio"
KUBERNETES = "1.34"
RELEASE = {"Name": "play", "Namespace": "theatre"}


def values(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The chart's values with changes, which may not add a name."""
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    for name, change in changes.items():
        found[name] = {**found[name], **change} if isinstance(change, dict) else change
    return found


def rendered(**changes: Any) -> dict[str, Any]:
    """The objects by kind. All but the operator's ServiceMonitor are validated."""
    chart = {name[:1].upper() + name[1:]: value for name, value in yaml.safe_load((CHART / "Chart.yaml").read_text()).items()}
    context = {"Values": values(changes), "Release": RELEASE, "Chart": chart}
    objects = {}
    for template in sorted((CHART / "templates").glob("*.yaml")):
        for one in yaml.safe_load_all(render(template.read_text(), context)):
            if one:
                objects[one["kind"]] = one
                if one["kind"] != "ServiceMonitor":
                    kubernetes_validate.validate(one, KUBERNETES, strict=True)
    return objects


def pod(objects: Mapping[str, Any]) -> Any:
    return objects["Deployment"]["spec"]["template"]["spec"]


def environment(objects: Mapping[str, Any]) -> dict[str, Any]:
    (container,) = pod(objects)["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def allowed_hosts(objects: Mapping[str, Any]) -> list[str]:
    return str(environment(objects)["SERVICE_ALLOWED_HOSTS"]).split()


def test_by_default_it_serves_the_model_in_the_image_to_the_cluster() -> None:
    objects = rendered()
    assert objects.keys() == {"Deployment", "Service"}
    assert objects["Service"]["spec"]["type"] == "ClusterIP"
    assert [volume["name"] for volume in pod(objects)["volumes"]] == ["tmp"]
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service"]["spec"]["selector"] == objects["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    (container,) = pod(objects)["containers"]
    assert container["image"] == f"folio:{__version__}"
    assert allowed_hosts(objects) == ["play", "play.theatre", "play.theatre.svc", "play.theatre.svc.cluster.local"]
    assert "strategy" not in objects["Deployment"]["spec"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod(objects)["securityContext"]["runAsNonRoot"]


def test_a_server_without_keys_may_have_more_names() -> None:
    assert allowed_hosts(rendered(allowedHosts="folio.example *.folio.example"))[4:] == ["folio.example", "*.folio.example"]


def test_a_secret_brings_keys_and_a_monitor_uses_them() -> None:
    objects = rendered(secretName="keys", replicas=3, serviceMonitor={"enabled": True})
    variables = environment(objects)
    assert variables["SERVICE_API_KEYS"] == {"secretKeyRef": {"name": "keys", "key": "api-key"}}
    assert variables["SERVICE_SECRET"] == {"secretKeyRef": {"name": "keys", "key": "secret"}}
    assert "SERVICE_ALLOWED_HOSTS" not in variables, "with keys, each name is accepted"
    monitor = objects["ServiceMonitor"]["spec"]
    assert objects["Service"]["metadata"]["labels"][monitor["jobLabel"]] == "folio", "the alerts read this job"
    assert monitor["selector"]["matchLabels"] == objects["Service"]["metadata"]["labels"]
    (endpoint,) = monitor["endpoints"]
    (port,) = objects["Service"]["spec"]["ports"]
    assert endpoint["port"] == port["name"]
    assert endpoint["authorization"]["credentials"] == {"name": "keys", "key": "api-key"}


@pytest.mark.parametrize(
    ("models", "claim"), [({"size": "1Gi", "storageClassName": "fast"}, "play-models"), ({"claimName": "ours"}, "ours")]
)
def test_models_may_have_a_volume(models: dict[str, str], claim: str) -> None:
    objects = rendered(models=models)
    assert {"name": "models", "persistentVolumeClaim": {"claimName": claim}} in pod(objects)["volumes"]
    (container,) = pod(objects)["containers"]
    assert {"name": "models", "mountPath": "/models"} in container["volumeMounts"]
    assert ("PersistentVolumeClaim" in objects) == ("initContainers" in pod(objects)) == ("size" in models)
    if "size" in models:
        assert objects["PersistentVolumeClaim"]["metadata"]["name"] == claim


def test_a_volume_of_one_node_is_released_before_an_update_starts() -> None:
    def strategy(mode: str) -> Any:
        return rendered(models={"size": "1Gi", "accessMode": mode})["Deployment"]["spec"].get("strategy")

    assert strategy("ReadWriteOnce") == {"type": "Recreate"}
    assert strategy("ReadWriteMany") is None


def test_a_new_volume_gets_the_included_model_whole_and_once(tmp_path: Path) -> None:
    image, volume = tmp_path / "models", tmp_path / "volume"
    (image / "shakespeare" / "4").mkdir(parents=True)
    (image / "shakespeare" / "4" / "config.json").write_text("{}")
    (volume / ".new" / "left by a pod that was killed").mkdir(parents=True)
    (container,) = pod(rendered(models={"size": "1Gi"}))["initContainers"]
    command = [part.replace("/models", str(image)).replace("/volume", str(volume)) for part in container["command"]]

    def found() -> list[str]:
        subprocess.run(command, check=True)
        return sorted(str(path.relative_to(volume)) for path in volume.rglob("*") if path.is_file())

    assert found() == [".included", "shakespeare/4/config.json"]
    shutil.rmtree(volume / "shakespeare")
    assert found() == [".included"], "what was removed stays away"
    (volume / ".included").unlink()
    (volume / "shakespeare").mkdir()
    assert found() == [".included"], "what is there stays as it is"


def test_options_are_variables_of_the_service() -> None:
    variables = environment(rendered(env={"SERVICE_SLOTS": 8, "SERVICE_SEED": "1"}, secretName="keys"))
    assert (variables["SERVICE_SLOTS"], variables["SERVICE_SEED"]) == ("8", "1")
    assert {name.removeprefix("SERVICE_").lower() for name in variables} <= {*Settings.model_fields}


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    service = rendered()["Service"]
    service["spec"]["prots"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="prots"):
        kubernetes_validate.validate(service, KUBERNETES, strict=True)


def test_the_renderer_refuses_what_it_does_not_know() -> None:
    for template in ("{{ include `x` . }}", "{{ if .Values.a }}", "{{ .Values.a | upper }}", "{{ end }}"):
        with pytest.raises(NotSupported):
            render(template, {"Values": {"a": 1}})
    with pytest.raises(KeyError):
        render("{{ .Values.b }}", {"Values": {"a": 1}})
