"""The Helm chart: what Helm makes of it, held against Kubernetes' schemas and against the services themselves."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.server
import itertools
import json
import re
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_sampler.settings import SamplerSettings
from caligo_simulator.arena import Arena
from caligo_simulator.epr.source import segment_bytes
from caligo_simulator.settings import SimulatorSettings
from caligo_surrogate.settings import SurrogateSettings
from grpc_health.v1 import health_pb2, health_pb2_grpc

import caligo
from caligo import health, rpc
from caligo.errors import InvalidArgument, Unreachable
from caligo.settings import ServiceSettings
from caligo.tls import Tls
from tests.deploy.chart import CHART, NAMESPACE, ROOT, Release, helm, to_bytes, to_release

SETTINGS: dict[str, type[ServiceSettings]] = {
    "orchestrator": OrchestratorSettings,
    "sampler": SamplerSettings,
    "simulator": SimulatorSettings,
    "surrogate": SurrogateSettings,
}
SERVED = ("sampler", "simulator", "surrogate")
"""The services that the orchestrator alone may call."""
KUBERNETES = ("1.25", "1.37")
"""The oldest that Chart.yaml allows, and the newest whose schemas there are."""
MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
OWN_SECRETS = {name: f"own-{name}" for name in (*SETTINGS, "metrics")}

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "gpu": {
        "surrogate": {
            "gpu": {"enabled": True, "runtimeClassName": "nvidia"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        }
    },
    "cert-manager": {"tls": {"source": "cert-manager"}},
    "minimal": {
        "tls": {"source": "secrets", "secrets": OWN_SECRETS},
        "networkPolicy": {"enabled": False},
        "simulator": {
            "replicas": 3,
            "autoscaling": {"enabled": False},
            "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "500m"}},
        },
    },
    "everything": {
        "nameOverride": "otes",
        "image": {"registry": "registry.example.org/physics", "tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
        "tls": {
            "source": "cert-manager",
            "certManager": {"issuer": {"name": "physics", "kind": "ClusterIssuer"}},
            "hostnames": ["caligo.example.org"],
            "ipAddresses": ["192.0.2.7"],
        },
        "orchestrator": {
            "settings": {"require_token": True, "client_rows": 200_000_000, "log_level": "debug"},
            "service": {
                "type": "LoadBalancer",
                "port": 443,
                "nodePort": 30050,
                "annotations": {"example.org/internal": "true"},
                "externalTrafficPolicy": "Local",
                "loadBalancerSourceRanges": ["192.0.2.0/24"],
            },
            "persistence": {"size": "100Gi", "storageClassName": "fast", "accessMode": "ReadWriteOncePod"},
            "podDisruptionBudget": {"maxUnavailable": 0},
        },
        "sampler": {"podAnnotations": {"example.org/a": "b"}, "podLabels": {"team": "physics"}},
        "simulator": {
            "autoscaling": {
                "minReplicas": 2,
                "maxReplicas": 64,
                "queue": {"enabled": True, "matchLabels": {"namespace": NAMESPACE}},
            },
            "segmentPairs": 2**21,
            "graceSeconds": 300,
            "resources": {"requests": {"cpu": 2.5, "memory": "8Gi"}, "limits": {"cpu": 2.5, "memory": "8Gi"}},
            "nodeSelector": {"pool": "compute"},
            "priorityClassName": "batch",
            "affinity": {"nodeAffinity": {}},
        },
        "surrogate": {
            "gpu": {"enabled": True, "resource": "nvidia.com/mig-1g.10gb"},
            "settings": {"memory_budget_mib": 16_384_000, "kernel": "keops"},
        },
        "networkPolicy": {
            "clientsFrom": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
            "metricsFrom": [MONITORING],
            "extraEgress": [{"to": [MONITORING], "ports": [{"port": 4317, "protocol": "TCP"}]}],
        },
        "monitoring": {
            "podMonitor": {"enabled": True},
            "rules": {"enabled": True},
            "labels": {"release": "prometheus"},
        },
    },
}
CPUS = {1: 1, "500m": 1, "2500m": 3, 2.5: 3, "4": 4}
"""Workers by limits.cpu."""
OTHERS: dict[str, dict[str, Any]] = {
    "long name": {"fullnameOverride": "a" * 40},
    "nobody": {"networkPolicy": {"clientsFrom": []}},
} | {
    f"cpu {cpu}": {
        "tls": {"source": "cert-manager"},
        "simulator": {"resources": {"limits": {"cpu": cpu, "memory": "4Gi"}}, "segmentPairs": 2**19},
    }
    for cpu in CPUS
}


@functools.cache
def _rendered() -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Helm's verdict on the chart, and its answer for each variant."""
    asked = VARIANTS | OTHERS
    lint, *answers = helm(*({"values": values} for values in asked.values()))
    return lint["lint"], dict(zip(asked, answers, strict=True))


@functools.cache
def variant(name: str) -> Release:
    return to_release(_rendered()[1][name])


@pytest.fixture(params=VARIANTS)
def release(request) -> Release:
    return variant(request.param)


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


# --- what Helm and Kubernetes say ------------------------------------------------------------------------------------


def test_helm_finds_nothing_to_complain_about() -> None:
    assert _rendered()[0] == []


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_has_the_shape_that_kubernetes_wants(release, version) -> None:
    seen = set()
    for found in release.objects:
        if found["apiVersion"] in ("cert-manager.io/v1", "monitoring.coreos.com/v1"):
            continue  # not Kubernetes' own
        kubernetes_validate.validate(found, version, strict=True)
        seen.add(found["kind"])
    assert {"Deployment", "StatefulSet", "Service", "PodDisruptionBudget"} <= seen


def test_names_are_unique_and_in_the_release_s_namespace(release) -> None:
    names = [(o["kind"], o["metadata"]["name"]) for o in release.objects]
    assert len(names) == len(set(names))
    assert {o["metadata"]["namespace"] for o in release.objects} == {NAMESPACE}
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{,61}[a-z0-9])?", name) for _, name in names)


def test_long_names_stay_within_what_dns_allows() -> None:
    longest = max(len(o["metadata"]["name"]) for o in variant("long name").objects)
    assert 45 < longest <= 57  # a pod's name adds a hash to it


def test_the_version_is_that_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == caligo.__version__
    assert variant("default").container("sampler")["image"] == f"caligo/sampler:{caligo.__version__}"


# --- objects find one another ----------------------------------------------------------------------------------------


def test_selectors_find_exactly_the_pods_of_their_service(release) -> None:
    assert set(release.workloads) == set(SETTINGS)
    kinds = [release.all(kind) for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor")]
    for found in [*release.workloads.values(), *(o for objects in kinds for o in objects)]:
        spec, service = found["spec"], found["metadata"]["labels"]["app.kubernetes.io/component"]
        selector = spec.get("selector") or spec["podSelector"]
        wanted = selector.get("matchLabels", selector)
        assert [s for s in SETTINGS if selects(wanted, release.labels(s))] == [service]
    for kind in ("Service", "PodDisruptionBudget"):
        assert len(release.all(kind)) == len(SETTINGS)


def test_two_releases_in_a_namespace_do_not_select_each_other_s_pods() -> None:
    for found in variant("default").workloads.values():
        assert found["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "caligo"


def test_every_variable_is_a_setting_that_the_service_accepts(release, monkeypatch) -> None:
    for service, settings in SETTINGS.items():
        environment = release.environment(service)
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            loaded = settings.from_command_line([])
        for name in environment:
            assert name.lower().removeprefix(f"caligo_{service}_") in loaded.model_fields_set


def test_kubernetes_adds_no_variables_of_its_own(release, monkeypatch) -> None:
    """What it would add for the Service of the sampler keeps the sampler from starting."""
    monkeypatch.setenv("CALIGO_SAMPLER_PORT", "tcp://10.0.0.1:50051")
    with pytest.raises(InvalidArgument, match="CALIGO_SAMPLER_PORT"):
        SamplerSettings.from_command_line([])
    assert all(release.pod(service)["enableServiceLinks"] is False for service in SETTINGS)


def test_ports_lead_to_where_the_services_listen(release) -> None:
    for service in SETTINGS:
        environment = release.environment(service)
        ports = {port["name"]: port["containerPort"] for port in release.container(service)["ports"]}
        assert environment[f"CALIGO_{service.upper()}_ADDRESS"] == f"0.0.0.0:{ports['grpc']}"
        assert environment[f"CALIGO_{service.upper()}_METRICS_ADDRESS"] == f"0.0.0.0:{ports['metrics']}"
        dockerfile = (ROOT / "services" / service / "Dockerfile").read_text()
        assert set(re.search(r"^EXPOSE (.*)$", dockerfile, re.M).group(1).split()) == {str(p) for p in ports.values()}
        assert [port["targetPort"] for port in release.get("Service", service)["spec"]["ports"]] == ["grpc"]


def test_the_orchestrator_has_the_addresses_of_the_others(release) -> None:
    environment = release.environment("orchestrator")
    for service in SERVED:
        address = environment[f"CALIGO_ORCHESTRATOR_{service.upper()}"]
        found = release.get("Service", service)
        (port,) = found["spec"]["ports"]
        assert address.removeprefix("dns:///") == f"{found['metadata']['name']}:{port['port']}"


def test_the_orchestrator_sees_each_simulator_that_is_ready(release) -> None:
    assert release.environment("orchestrator")["CALIGO_ORCHESTRATOR_SIMULATOR"].startswith("dns:///")
    spec = release.get("Service", "simulator")["spec"]
    assert spec["clusterIP"] == "None"
    assert spec["publishNotReadyAddresses"] is False


def test_the_orchestrator_s_service_is_as_the_values_say() -> None:
    spec = variant("everything").get("Service", "orchestrator")["spec"]
    assert (spec["type"], spec["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    assert spec["ports"] == [{"name": "grpc", "port": 443, "targetPort": "grpc", "nodePort": 30050}]
    assert variant("default").get("Service", "orchestrator")["spec"]["type"] == "ClusterIP"


def test_the_orchestrator_keeps_its_data_in_a_volume(release) -> None:
    spec = release.get("StatefulSet", "orchestrator")["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    mounts = {mount["mountPath"]: mount["name"] for mount in release.container("orchestrator")["volumeMounts"]}
    assert mounts[release.environment("orchestrator")["CALIGO_ORCHESTRATOR_DATA_DIRECTORY"]] == "data"
    assert claim["metadata"]["name"] == "data"
    assert spec["serviceName"] == release.get("Service", "orchestrator")["metadata"]["name"]
    assert spec["replicas"] == 1


# --- pods ------------------------------------------------------------------------------------------------------------


def test_no_pod_has_more_rights_than_it_needs(release) -> None:
    """What the standard `restricted` asks for, and a file system that cannot be written."""
    for service in SETTINGS:
        pod, container = release.pod(service), release.container(service)
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (10001, 10001, 10001)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert "initContainers" not in pod
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert all({"secret", "emptyDir"} & set(volume) for volume in pod["volumes"])


def test_every_mount_has_its_volume_and_tmp_can_be_written(release) -> None:
    for service in SETTINGS:
        pod, mounts = release.pod(service), release.container(service)["volumeMounts"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        claims = {"data"} if service == "orchestrator" else set()
        assert {mount["name"] for mount in mounts} == set(volumes) | claims
        assert "emptyDir" in volumes[next(mount["name"] for mount in mounts if mount["mountPath"] == "/tmp")]


def test_probes_ask_the_service_itself(release) -> None:
    for service in SETTINGS:
        container = release.container(service)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["exec"]["command"] == ["python", "-m", "caligo.health", service]
            assert container[probe]["timeoutSeconds"] >= 5  # Python's start, beside simulations
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 300  # kernels are compiled first


def test_a_pod_has_time_to_finish_what_it_has_begun(release) -> None:
    for service in SETTINGS:
        grace = float(release.environment(service)[f"CALIGO_{service.upper()}_GRACE_SECONDS"])
        assert release.pod(service)["terminationGracePeriodSeconds"] >= grace + 15


@pytest.mark.parametrize(("cpu", "workers"), CPUS.items())
def test_shared_memory_has_room_for_the_arena_of_a_worker_for_each_cpu(cpu, workers, monkeypatch) -> None:
    found = variant(f"cpu {cpu}")
    for name, value in found.environment("simulator").items():
        monkeypatch.setenv(name, value)
    settings = SimulatorSettings.from_command_line([])
    assert settings.workers == workers
    (volume,) = [v for v in found.pod("simulator")["volumes"] if v["name"] == "shm"]
    assert volume["emptyDir"]["medium"] == "Memory"
    limit = to_bytes(volume["emptyDir"]["sizeLimit"])
    with Arena.create(2 * settings.workers, segment_bytes(settings.segment_pairs), "chart") as arena:
        size = (Path("/dev/shm") / arena.name).stat().st_size
    assert size + 8 * 2**20 <= limit <= size + 24 * 2**20
    assert limit < to_bytes(found.container("simulator")["resources"]["limits"]["memory"])


def test_the_default_simulator_has_the_memory_that_the_guide_says() -> None:
    (volume,) = [v for v in variant("default").pod("simulator")["volumes"] if v["name"] == "shm"]
    assert volume["emptyDir"]["sizeLimit"] == "48Mi"  # four workers of 8 MiB, and 16 MiB
    mounts = {m["name"]: m["mountPath"] for m in variant("default").container("simulator")["volumeMounts"]}
    assert mounts["shm"] == "/dev/shm"


def test_simulators_spread_over_nodes_and_zones() -> None:
    default = variant("default")
    constraints = default.pod("simulator")["topologySpreadConstraints"]
    assert {c["topologyKey"] for c in constraints} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert all(selects(c["labelSelector"]["matchLabels"], default.labels("simulator")) for c in constraints)


def test_the_surrogate_takes_a_gpu_where_it_is_told_to() -> None:
    for name, resource in (("gpu", "nvidia.com/gpu"), ("everything", "nvidia.com/mig-1g.10gb")):
        found = variant(name)
        container = found.container("surrogate")
        assert container["image"].endswith("-cuda")
        assert container["resources"]["limits"][resource] == 1
        assert container["resources"]["limits"]["memory"] == "16Gi"
        assert found.environment("surrogate")["CALIGO_SURROGATE_DEVICE"] == "cuda"
        cache = re.search(r"KEOPS_CACHE_FOLDER=(\S+)", (ROOT / "services/surrogate/Dockerfile").read_text()).group(1)
        assert cache in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert variant("gpu").pod("surrogate")["runtimeClassName"] == "nvidia"
    plain = variant("default")
    assert not plain.container("surrogate")["image"].endswith("-cuda")
    assert plain.environment("surrogate")["CALIGO_SURROGATE_DEVICE"] == "cpu"
    assert "nvidia" not in str(plain.pod("surrogate"))


# --- scaling and monitoring ------------------------------------------------------------------------------------------


def test_simulators_scale_by_cpu_or_by_waiting_rows() -> None:
    default, everything = variant("default"), variant("everything")
    scaler = default.get("HorizontalPodAutoscaler", "simulator")["spec"]
    deployment = default.get("Deployment", "simulator")
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # an upgrade would undo what the autoscaler did
    assert [metric["type"] for metric in scaler["metrics"]] == ["Resource"]
    assert "cpu" in default.container("simulator")["resources"]["requests"]

    cpu, queue = everything.get("HorizontalPodAutoscaler", "simulator")["spec"]["metrics"]
    assert cpu["resource"]["name"] == "cpu"
    name = queue["external"]["metric"]["name"]
    assert f"| `{name}` |" in (ROOT / "docs/observability.md").read_text()  # which has its own test
    assert queue["external"]["metric"]["selector"] == {"matchLabels": {"namespace": NAMESPACE}}
    assert queue["external"]["target"] == {"type": "AverageValue", "averageValue": "12"}  # four for each of 3 workers

    assert variant("minimal").all("HorizontalPodAutoscaler") == []
    assert variant("minimal").get("Deployment", "simulator")["spec"]["replicas"] == 3


def test_prometheus_finds_the_pods_and_shows_its_certificate() -> None:
    everything = variant("everything")
    alerts = yaml.safe_load((ROOT / "deploy/observability/alerts.yml").read_text())
    assert everything.get("PrometheusRule", "alerts")["spec"] == alerts
    for service in SETTINGS:
        found = everything.get("PodMonitor", service)
        assert found["metadata"]["labels"]["release"] == "prometheus"
        assert everything.labels(service)[found["spec"]["jobLabel"]] == service  # the job that the alerts name
        (endpoint,) = found["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] in {port["name"] for port in everything.container(service)["ports"]}
        assert endpoint["scheme"] == "https"
        tls = endpoint["tlsConfig"]
        (certificate,) = [
            c for c in everything.all("Certificate") if c["spec"]["secretName"] == tls["cert"]["secret"]["name"]
        ]
        assert "client auth" in certificate["spec"]["usages"]
        assert tls["serverName"] in everything.get("Certificate", service)["spec"]["dnsNames"]
    assert variant("default").all("PodMonitor") == variant("default").all("PrometheusRule") == []


# --- who reaches whom ------------------------------------------------------------------------------------------------


def reaches(release: Release, source: dict[str, Any], service: str, port: str) -> bool:
    """Whether the policies let a source, {"pod": labels} or {"peer": an entry of `from`}, reach a port of a service."""

    def is_meant(peers: list[dict[str, Any]] | None) -> bool:
        if not peers:
            return True  # the rule is for everybody
        if "peer" in source:
            return source["peer"] in peers
        return any(set(p) == {"podSelector"} and selects(p["podSelector"]["matchLabels"], source["pod"]) for p in peers)

    rules = [
        rule
        for policy in release.all("NetworkPolicy")
        if selects(policy["spec"]["podSelector"]["matchLabels"], release.labels(service))
        for rule in policy["spec"]["ingress"] or ()
    ]
    assert any(
        selects(policy["spec"]["podSelector"]["matchLabels"], release.labels(service))
        for policy in release.all("NetworkPolicy")
    ), "no policy, so everybody reaches it"
    return any(is_meant(rule.get("from")) and any(p["port"] == port for p in rule["ports"]) for rule in rules)


@pytest.mark.parametrize("name", ["default", "everything"])
def test_only_the_orchestrator_reaches_the_three(name) -> None:
    found = variant(name)
    for service in SERVED:
        assert [s for s in SETTINGS if reaches(found, {"pod": found.labels(s)}, service, "grpc")] == ["orchestrator"]
        for other in ({"pod": {"caligo/client": "true"}}, {"pod": {}}, {"peer": MONITORING}):
            assert not reaches(found, other, service, "grpc")


def test_only_clients_reach_the_orchestrator() -> None:
    default, everything = variant("default"), variant("everything")
    assert reaches(default, {"pod": {"caligo/client": "true"}}, "orchestrator", "grpc")
    assert not reaches(default, {"pod": {"app": "other"}}, "orchestrator", "grpc")
    network = {"peer": {"ipBlock": {"cidr": "192.0.2.0/24"}}}
    assert reaches(everything, network, "orchestrator", "grpc")
    assert not reaches(everything, {"pod": {"caligo/client": "true"}}, "orchestrator", "grpc")
    for service in SERVED:
        assert not reaches(default, {"pod": default.labels(service)}, "orchestrator", "grpc")
    assert not reaches(variant("nobody"), {"pod": {"caligo/client": "true"}}, "orchestrator", "grpc")


def test_metrics_are_for_whom_the_values_say() -> None:
    for service in SETTINGS:
        assert reaches(variant("everything"), {"peer": MONITORING}, service, "metrics")
        assert not reaches(variant("default"), {"peer": MONITORING}, service, "metrics")
        assert not reaches(variant("default"), {"pod": {"caligo/client": "true"}}, service, "metrics")


def test_pods_reach_what_they_need_and_no_more() -> None:
    for found in (variant("default"), variant("everything")):
        for service in SETTINGS:
            policy = found.get("NetworkPolicy", service)["spec"]
            assert policy["policyTypes"] == ["Ingress", "Egress"]
            called = {
                other
                for rule in policy["egress"]
                for peer in rule.get("to", ())
                for other in SETTINGS
                if "podSelector" in peer and selects(peer["podSelector"]["matchLabels"], found.labels(other))
            }
            assert called == (set(SERVED) if service == "orchestrator" else set())
            anywhere = [rule["ports"] for rule in policy["egress"] if "to" not in rule]
            assert [{port["port"] for port in ports} for ports in anywhere] == [{53}]
    assert variant("minimal").all("NetworkPolicy") == []


# --- certificates ----------------------------------------------------------------------------------------------------


def test_every_certificate_that_is_mounted_is_made_or_named(release) -> None:
    made = {s["metadata"]["name"] for s in release.all("Secret")} | {
        c["spec"]["secretName"] for c in release.all("Certificate")
    }
    for service in SETTINGS:
        (volume,) = [v["secret"] for v in release.pod(service)["volumes"] if v["name"] == "tls"]
        assert volume["secretName"] in (made or {OWN_SECRETS[service]})
        assert volume["defaultMode"] == 0o440  # for the group, which is fsGroup
        files = {f"/tls/{item['path']}" for item in volume["items"]}
        used = {value for value in release.environment(service).values() if value.startswith("/tls/")}
        assert used <= files
        needed = {f"CALIGO_{service.upper()}_TLS_CERTIFICATE", f"CALIGO_{service.upper()}_TLS_KEY"}
        if service in SERVED:
            needed.add(f"CALIGO_{service.upper()}_TLS_CLIENT_CA")
        assert needed <= set(release.environment(service))


def test_cert_manager_is_asked_for_the_names_that_are_called() -> None:
    for found in (variant("cert-manager"), variant("everything")):
        issuers = {(i["kind"], i["metadata"]["name"]) for i in found.all("Issuer")} | {("ClusterIssuer", "physics")}
        for certificate in found.all("Certificate"):
            issuer = certificate["spec"]["issuerRef"]
            assert (issuer["kind"], issuer["name"]) in issuers
        for service in SETTINGS:
            spec = found.get("Certificate", service)["spec"]
            assert {found.get("Service", service)["metadata"]["name"], "localhost"} <= set(spec["dnsNames"])
            assert {"server auth", "client auth"} <= set(spec["usages"])
    orchestrator = variant("everything").get("Certificate", "orchestrator")["spec"]
    assert "caligo.example.org" in orchestrator["dnsNames"]
    assert orchestrator["ipAddresses"] == ["192.0.2.7"]
    authority = variant("cert-manager").get("Certificate", "authority")["spec"]
    assert authority["isCA"] is True
    assert variant("cert-manager").get("Issuer", "authority")["spec"] == {"ca": {"secretName": authority["secretName"]}}


@contextlib.contextmanager
def serving(release: Release, service: str, directory: Path, patch: pytest.MonkeyPatch) -> Iterator[ServiceSettings]:
    """A server with the environment of the service's container and the files of its Secret, on a port that is free."""
    directory.mkdir()
    for path, content in release.tls_files(service).items():
        (directory / path).write_bytes(content)
    for name, value in release.environment(service).items():
        patch.setenv(name, value.replace("/tls/", f"{directory}/") if value.startswith("/tls/") else value)
    patch.setenv(f"CALIGO_{service.upper()}_ADDRESS", "0.0.0.0:0")
    settings = SETTINGS[service].from_command_line([])
    server = rpc.Server(settings.address, [], tls=settings.tls())
    server.start()
    try:
        yield settings.model_copy(update={"address": server.address})
    finally:
        server.stop(0)


def _health(port: str, tls: Tls) -> int:
    with rpc.channel(f"localhost:{port}", tls) as channel, rpc.calling(port):
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20).status


def test_generated_certificates_hold_between_the_services(tmp_path, monkeypatch) -> None:
    found = variant("default")
    with contextlib.ExitStack() as running:
        listening = {s: running.enter_context(serving(found, s, tmp_path / s, monkeypatch)) for s in SETTINGS}
        for settings in listening.values():
            health.check(settings, 20)  # what the probe does
        orchestrator = listening["orchestrator"]
        for service in SERVED:
            address = getattr(orchestrator, service).removeprefix("dns:///")
            port = listening[service].address.rpartition(":")[2]
            named = dataclasses.replace(orchestrator.services_tls(), server_name=address.partition(":")[0])
            assert _health(port, named) == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(Unreachable):  # no certificate, no call
                _health(port, dataclasses.replace(named, certificate=None, key=None))
        client = Tls(ca=tmp_path / "orchestrator" / "ca.pem", server_name=f"caligo-orchestrator.{NAMESPACE}.svc")
        assert _health(orchestrator.address.rpartition(":")[2], client) == health_pb2.HealthCheckResponse.SERVING


@contextlib.contextmanager
def kubernetes_with(secrets: dict[str, dict[str, Any]]) -> Iterator[str]:
    """As much of the Kubernetes API as `lookup` asks for."""

    class Api(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, code = self.path.partition("?")[0], 200
            if path == "/api/v1":
                resource = {"name": "secrets", "namespaced": True, "kind": "Secret", "verbs": ["get", "list"]}
                body = {"kind": "APIResourceList", "groupVersion": "v1", "resources": [resource]}
            elif (name := path.removeprefix(f"/api/v1/namespaces/{NAMESPACE}/secrets/")) in secrets:
                body = secrets[name]
            else:
                code, body = 404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound"}
                body["code"] = 404
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_generated_certificates_survive_an_upgrade() -> None:
    def secrets(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {s["metadata"]["name"]: s for s in to_release(answer).all("Secret")}

    installed = secrets(_rendered()[1]["default"])
    with kubernetes_with(installed) as url:
        renamed = {"tls": {"hostnames": ["caligo.example.org"]}}
        _, again, changed = helm({"apiserver": url}, {"apiserver": url, "values": renamed})
    assert secrets(again) == installed
    differing = {name for name, secret in secrets(changed).items() if secret["data"] != installed[name]["data"]}
    assert differing == {"caligo-orchestrator-tls"}

    lost = {name: secret for name, secret in installed.items() if name != "caligo-sampler-tls"}
    with kubernetes_with(lost) as url:
        _, mended = helm({"apiserver": url})
    assert secrets(mended)["caligo-sampler-tls"]["data"]["ca.crt"] == installed["caligo-authority"]["data"]["tls.crt"]
    assert {n for n, s in secrets(mended).items() if s["data"] != installed[n]["data"]} == {"caligo-sampler-tls"}


# --- values ----------------------------------------------------------------------------------------------------------


def test_values_and_schema_name_the_same_things() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(values: dict[str, Any], node: dict[str, Any], path: str) -> None:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        if "properties" not in node:
            return
        assert node["additionalProperties"] is False, path
        if not path.endswith((".settings", ".requests", ".limits", ".resources")):
            assert set(values) == set(node["properties"]) - {"global"}, path
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, node["properties"][name], f"{path}.{name}")

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


@pytest.mark.parametrize("service", SETTINGS)
def test_the_schema_knows_every_setting_of_a_service(service) -> None:
    """Or the chart sets it from values of its own, or it makes no sense there."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    allowed = schema["properties"][service]["properties"]["settings"]["properties"]
    declared = SETTINGS[service].model_fields
    prefix = f"CALIGO_{service.upper()}_"
    own = {name.removeprefix(prefix).lower() for name in variant("default").environment(service)}
    elsewhere = {"insecure", "lifeline", "farm", "scheduler", "namespace", "services_name", "tls_client_ca"}
    assert set(declared) - set(allowed) - elsewhere <= own
    assert not set(allowed) & (own - {"patience_seconds"})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("simulater.replicas=2", "additional properties 'simulater' not allowed"),
        ("simulator.replicas=0", "/simulator/replicas': minimum: got 0, want 1"),
        ("simulator.replicas=many", "/simulator/replicas': got string, want integer"),
        ("simulator.segmentPairs=100000", "/simulator/segmentPairs': multipleOf: got 100,000, want 65,536"),
        ("simulator.resources.limits.cpu=0", "/simulator/resources/limits/cpu': exclusiveMinimum: got 0, want 0"),
        ("simulator.resources.limits.cpu=null", "/simulator/resources/limits': missing property 'cpu'"),
        ("simulator.settings.workers=4", "/simulator/settings': additional properties 'workers' not allowed"),
        ("orchestrator.settings.patience=9", "/orchestrator/settings': additional properties 'patience' not allowed"),
        ("surrogate.settings.kernel=fast", "must be one of 'auto', 'dense', 'blocks', 'keops'"),
        ("tls.source=none", "/tls/source': value must be one of 'generated', 'cert-manager', 'secrets'"),
        ("tls.source=secrets", ": must name a Secret where tls.source is secrets"),
        ("orchestrator.service.type=Ingress", "must be one of 'ClusterIP', 'NodePort', 'LoadBalancer'"),
        ("sampler.podDisruptionBudget.maxUnavailable=some", "'some' does not match pattern '^[0-9]+%$'"),
        ("simulator.autoscaling.cpuPercent=null", "simulator.autoscaling: needs cpuPercent, queue.enabled or both"),
        ("image.registry=registry.example.org/", "/image/registry': 'registry.example.org/' does not match pattern"),
    ],
)
def test_a_wrong_value_is_refused_and_named(values, said, refusals) -> None:
    assert said in refusals[values].get("error", "nothing")


@pytest.fixture(scope="module")
def refusals() -> dict[str, dict[str, Any]]:
    marker = next(m for m in test_a_wrong_value_is_refused_and_named.pytestmark if m.name == "parametrize")
    wrong = [values for values, _ in marker.args[1]]
    return dict(zip(wrong, helm(*({"values": values} for values in wrong))[1:], strict=True))


# --- documents -------------------------------------------------------------------------------------------------------


DOCUMENTS = (ROOT / "docs/kubernetes.md").read_text() + (CHART / "README.md").read_text()


def test_helm_takes_what_the_documents_say() -> None:
    fragments = re.findall(r"^```yaml\n# caligo.yaml\n(.*?)^```", DOCUMENTS, re.M | re.S)
    commands = [shlex.split(line) for line in re.findall(r"^ *(helm .*)$", DOCUMENTS, re.M)]
    assert len(fragments) >= 6 and len(commands) >= 3
    asked: list[Any] = [yaml.safe_load(fragment) for fragment in fragments]
    for words in commands:
        assert words[1] in ("install", "upgrade") and "deploy/helm/caligo" in words
        asked.append(",".join(value for flag, value in itertools.pairwise(words) if flag == "--set"))
    for values, answer in zip(asked, helm(*({"values": values} for values in asked))[1:], strict=True):
        assert "error" not in answer, (values, answer)


def test_the_documents_name_values_that_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = set(
        re.findall(
            r"`((?:image|tls|orchestrator|sampler|simulator|surrogate|networkPolicy|monitoring)\.[\w.]+)`", DOCUMENTS
        )
    )
    assert len(named) > 15
    for path in named - {"tls.crt", "tls.key"}:  # keys of a Secret
        node: Any = values
        for part in path.split("."):
            assert part in node, path
            node = SETTINGS[path.partition(".")[0]].model_fields if part == "settings" else node[part]


def test_the_notes_lead_to_the_release_s_own_objects() -> None:
    for name in VARIANTS:
        (notes,) = [t for n, t in _rendered()[1][name]["manifests"].items() if n.endswith("NOTES.txt")]
        found = variant(name)
        assert (
            f"statefulset/{found.get('StatefulSet', 'orchestrator')['metadata']['name']} -- caligo token create"
            in notes
        )
        (volume,) = [v for v in found.pod("orchestrator")["volumes"] if v["name"] == "tls"]
        assert f"get secret {volume['secret']['secretName']} " in notes
        assert "<no value>" not in notes
