"""Checks what `kustomize build` printed, read from standard input, against the schemas of Kubernetes
and of the Prometheus Operator, and checks what no schema knows: that names and ports match, and that
a pod has time to drain.

    check.py VERSION… <manifests
"""

import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor
from pydantic import ValidationError

ROOT = Path(__file__).resolve().parents[2]
problems = []


def check(what, holds, why):
    if not holds:
        problems.append(f"{what}: {why}")


def check_schema(name, manifest, versions):
    """Unknown fields are errors: the API server would drop them, or refuse the manifest."""
    if manifest["kind"] == "ServiceMonitor":
        try:
            model = ServiceMonitor.model_validate(manifest)
        except ValidationError as error:
            return problems.append(f"{name}: {error}")
        # The model ignores unknown fields, so they are missing from what it gives back.
        known = model.model_dump(by_alias=True, exclude_unset=True, mode="json")
        return check(name, known == manifest, f"unknown fields; known are {known}")
    for version in versions:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except Exception as error:
            message = getattr(error, "message", error)
            path = ".".join(str(part) for part in getattr(error, "path", []))
            problems.append(f"{name}: Kubernetes {version}: {path}: {message}")


def of_kind(manifests, kind):
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def selected(labels, by):
    return all(labels.get(key) == value for key, value in by.items())


def seconds(duration):
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    number = duration.rstrip("msh")
    return float(number) * units[duration[len(number):]]


def check_deployment(deployment, manifests):
    template = deployment["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    (container,) = pod["containers"]
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        port = container[probe]["httpGet"]["port"]
        check(probe, port == "admin" and port in ports, f"no port {port!r}")
    check("livenessProbe", container["livenessProbe"]["httpGet"]["path"] == "/healthz", "is not /healthz")

    (config,) = of_kind(manifests, "ConfigMap")
    drain = tomllib.loads((ROOT / "gateway/src/config/defaults.toml").read_text())["drain"]
    drain |= tomllib.loads(config["data"]["gateway.toml"]).get("drain", {})
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    needed, grace = pause + seconds(drain["deadline"]), pod["terminationGracePeriodSeconds"]
    check("terminationGracePeriodSeconds", grace > needed, f"{grace} s are not above {needed} s")
    mounted = {volume["name"] for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        check("volumeMounts", mount["name"] in mounted, f"no volume {mount['name']}")
    maps = {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
    check("volumes", maps == {config["metadata"]["name"]}, f"the ConfigMap is not {maps}")
    accounts = {account["metadata"]["name"] for account in of_kind(manifests, "ServiceAccount")}
    check("serviceAccountName", pod["serviceAccountName"] in accounts, "no such account")

    for service in of_kind(manifests, "Service"):
        name = f"Service {service['metadata']['name']}"
        check(name, selected(labels, service["spec"]["selector"]), "selects no gateway")
        for port in service["spec"]["ports"]:
            check(name, port["targetPort"] in ports, f"no port {port['targetPort']!r}")
    for kind, field in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for manifest in of_kind(manifests, kind):
            check(kind, selected(labels, manifest["spec"][field]["matchLabels"]), "selects no gateway")
    for policy in of_kind(manifests, "NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            for port in rule["ports"]:
                check("NetworkPolicy", port["port"] in ports, f"no port {port['port']!r}")


def check_monitoring(manifests):
    for monitor in of_kind(manifests, "ServiceMonitor"):
        by = monitor["spec"]["selector"]["matchLabels"]
        services = [s for s in of_kind(manifests, "Service") if selected(s["metadata"]["labels"], by)]
        ports = [port["name"] for service in services for port in service["spec"]["ports"]]
        wanted = [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]]
        check("ServiceMonitor", ports == wanted, f"scrapes {wanted}, and the Services have {ports}")


def check_autoscaler(manifests, deployment):
    values = ROOT / "deploy/kubernetes/components/autoscaling/prometheus-adapter-values.yaml"
    rules = yaml.safe_load(values.read_text())["rules"]["custom"]
    for autoscaler in of_kind(manifests, "HorizontalPodAutoscaler"):
        spec = autoscaler["spec"]
        target = (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
        names = (deployment["kind"], deployment["metadata"]["name"])
        check("HorizontalPodAutoscaler", target == names, f"scales {target}")
        check("HorizontalPodAutoscaler", "replicas" not in deployment["spec"], "fights `replicas`")
        wanted = {m["pods"]["metric"]["name"] for m in spec["metrics"] if m["type"] == "Pods"}
        made = {rule["name"]["as"] for rule in rules}
        check("HorizontalPodAutoscaler", wanted == made, f"wants {wanted}, the adapter has {made}")
    for rule in rules:
        series = rule["seriesQuery"].split("{")[0]
        documented = f"| `{series}` |" in (ROOT / "docs/operations.md").read_text()
        check("prometheus-adapter-values.yaml", documented, f"there is no metric {series}")


def main(versions):
    manifests = list(yaml.safe_load_all(sys.stdin))
    for manifest in manifests:
        check_schema(f"{manifest['kind']} {manifest['metadata']['name']}", manifest, versions)
    if not problems:
        (deployment,) = of_kind(manifests, "Deployment")
        check_deployment(deployment, manifests)
        check_monitoring(manifests)
        check_autoscaler(manifests, deployment)
    for problem in problems:
        print(f"scripts/kubernetes: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"{len(manifests)} manifests are valid for Kubernetes {', '.join(versions)}")


main(sys.argv[1:])
