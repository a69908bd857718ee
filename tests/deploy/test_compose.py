"""docker-compose.yml and .env against the Compose specification, the services' settings and each other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_sampler.settings import SamplerSettings
from caligo_simulator.epr.source import segment_bytes
from caligo_simulator.settings import SimulatorSettings
from caligo_surrogate.settings import SurrogateSettings

from caligo.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "deploy/simulators.yml")
TEXT = "".join((ROOT / file).read_text() for file in FILES)
COMPOSE, SIMULATORS = (yaml.safe_load((ROOT / file).read_text()) for file in FILES)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS: dict[str, type[ServiceSettings]] = {
    kind.section: kind for kind in (SamplerSettings, SimulatorSettings, SurrogateSettings, OrchestratorSettings)
}
OURS = ("sampler", "simulator", "surrogate", "surrogate-cpu", "orchestrator")
ENV_LINES = (ROOT / ".env").read_text().splitlines()
ENV = dict(line.split("=", 1) for line in ENV_LINES if line and not line.startswith("#"))


def test_it_is_what_the_compose_specification_allows() -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        "docker-compose.yml",
    ]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout
    assert "name" not in COMPOSE  # docker-compose 1.29 refuses it


def test_variables_and_their_defaults_are_those_of_the_env_file() -> None:
    used = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", TEXT))
    assert set(re.findall(r"\$\{([A-Z_]+)", TEXT)) == set(used), "one has no default"
    assert used.pop("DEPLOY_ENV_FILE") == ".env"
    assert used == {name: value for name, value in ENV.items() if name.startswith("DEPLOY_")}


def test_the_env_file_has_every_setting() -> None:
    offered = dict(re.findall(r"^#(CALIGO_\w+)=(.*)$", "\n".join(ENV_LINES), re.MULTILINE))
    known = {
        f"CALIGO_{section.upper()}_{name.upper()}": field.get_default(call_default_factory=True)
        for section, kind in SETTINGS.items()
        for name, field in kind.model_fields.items()
    }
    for name, value in offered.items():
        default = known[name]
        assert value == {None: "", False: "false"}.get(default, str(default)), name
    fixed = {name for service in SERVICES.values() for name in service.get("environment", {})}
    said = {*offered, *ENV, *fixed} | {
        name.replace("ORCHESTRATOR", other.upper()) for name in offered for other in SETTINGS
    }
    ours = {name for name in known if name.split("_", 2)[2] not in ("ADDRESS", "INSECURE", "LIFELINE")}
    # Decided by the images, by what the farm is made of, or for several machines.
    elsewhere = {
        f"CALIGO_ORCHESTRATOR_{name}"
        for name in ("DATA_DIRECTORY", "FARM", "SCHEDULER", "SERVICES_NAME", "TLS_CLIENT_CA")
    }
    assert ours - said == elsewhere


def test_every_line_of_the_env_file_is_documented() -> None:
    for before, line in zip(["", *ENV_LINES], ENV_LINES, strict=False):
        if line and not line.startswith("#"):
            assert before.strip() not in ("", "#"), f"nothing is said about {line}"


@pytest.mark.parametrize("service", SETTINGS)
def test_variables_of_a_service_are_settings_of_it(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"CALIGO_{service.upper()}_"
    for name in (service, f"{service}-cpu"):
        for variable, value in SERVICES.get(name, {}).get("environment", {}).items():
            assert variable.startswith(prefix)
            monkeypatch.setenv(variable, value)
    for variable, value in ENV.items():
        if variable.startswith(prefix):
            monkeypatch.setenv(variable, value)
    settings = SETTINGS[service].from_command_line([])
    assert settings.metrics_address.endswith(":9464")
    assert settings.tls_certificate == Path(f"/tls/{service}.pem")
    others = {f"CALIGO_{other.upper()}_" for other in SETTINGS}
    assert all(any(v.startswith(p) for p in others) for v in ENV if v.startswith("CALIGO_"))


def test_the_arena_fits_into_dev_shm() -> None:
    workers, pairs = int(ENV["CALIGO_SIMULATOR_WORKERS"]), int(ENV["CALIGO_SIMULATOR_SEGMENT_PAIRS"])
    arena = 2 * workers * segment_bytes(pairs)
    assert arena == 8 * pairs * workers
    needed = arena // 2**20 + 1
    (said,) = (line for line in ENV_LINES if "8 bytes x pairs x workers" in line)
    assert f" {needed}m here." in said
    assert int(ENV["DEPLOY_SIMULATOR_SHM"].removesuffix("m")) >= needed


def test_only_the_orchestrator_is_published_to_others() -> None:
    assert COMPOSE["networks"]["services"] == {"internal": True}
    for name in OURS:
        assert ("ports" in SERVICES[name]) == (name == "orchestrator")
        assert ("outside" in SERVICES[name]["networks"]) == (name == "orchestrator")
    for name in ("prometheus", "grafana"):
        assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])


@pytest.mark.parametrize("name", OURS)
def test_containers_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["mem_limit"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service and "privileged" not in service
    tls = [volume for volume in service["volumes"] if ":/tls" in volume]
    assert tls == [f"${{DEPLOY_CERTIFICATES:-tls-}}{name.removesuffix('-cpu')}:/tls:ro"]
    assert not any("authority" in volume for volume in service["volumes"])


def test_certificates_are_made_for_whoever_shows_one() -> None:
    made = {host.split("=")[1].split(",")[0] for host in SERVICES["certificates"]["entrypoint"] if "--host" in host}
    mounted = {volume.rpartition(":")[2] for volume in SERVICES["certificates"]["volumes"]}
    assert mounted == {"/authority", *(f"/certificates/{name}" for name in made)}
    scraped = yaml.safe_load((ROOT / "deploy/observability/prometheus.yml").read_text())["scrape_configs"]
    jobs = {job["job_name"]: job["tls_config"] for job in scraped}
    assert set(jobs) == set(SETTINGS)
    assert all(tls["server_name"] == job for job, tls in jobs.items())
    assert made == {*SETTINGS, "prometheus"}
    assert {Path(tls["cert_file"]).stem for tls in jobs.values()} == {"prometheus"}


def test_a_simulator_of_its_own_is_the_same_but_for_its_port() -> None:
    apart, here = SIMULATORS["services"]["simulator"], SERVICES["simulator"]
    assert {**apart, "ports": None, "volumes": None} == {
        **{key: value for key, value in here.items() if key not in ("depends_on", "networks", "scale")},
        "ports": None,
        "volumes": None,
    }
    made = [host for host in SERVICES["certificates"]["entrypoint"] if "--host" in host]
    assert sum("services" in host.split(",") for host in made) == 3


def test_profiles() -> None:
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        "surrogate": ["gpu"],
        "surrogate-cpu": ["cpu"],
        "prometheus": ["observability"],
        "grafana": ["observability"],
    }
    (device,) = SERVICES["surrogate"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
