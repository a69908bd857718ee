"""A campaign on containers: from outside over TLS, scaled and killed on the way, the file that an embedded run has."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from caligo.dataset import open_campaign
from caligo.phases import Phase
from tests.docker.deployment import CALIGO, SERVICES, Deployment, docker, state, wait_until

# Some minutes of simulation, since everything below happens meanwhile.
SPEC = """
name: contained
seed: 11
lhs: {samples: 500}
active: {samples: 64, batch_size: 8}
surrogate: {training_steps: 60}
protocol: {max_decoded_frames: 1000}
"""


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the same spec, run without containers."""
    directory = tmp_path_factory.mktemp("embedded")
    (directory / "spec.yaml").write_text(SPEC)
    subprocess.run(
        [CALIGO, "run", "spec.yaml", "--output", "out"],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=1800,
    )
    return directory / "out" / "campaigns" / "contained" / "exploration_data.h5"


def test_only_the_orchestrator_can_be_reached(deployment: Deployment) -> None:
    published = docker(
        "ps",
        "--filter",
        f"label=com.docker.compose.project={deployment.project}",
        "--format",
        '{{.Label "com.docker.compose.service"}} {{.Ports}}',
    )
    assert [line.split()[0] for line in published.splitlines() if "->" in line] == ["orchestrator"]


def test_containers_have_what_they_need_and_no_more(deployment: Deployment) -> None:
    for service in SERVICES:
        (container,) = deployment.containers(service)
        assert docker("exec", container, "id", "-u").strip() == "10001"
        assert docker("exec", container, "sh", "-c", "touch /opt/x 2>&1 || true").count("Read-only") == 1
        name = service.removesuffix("-cpu")
        keys = docker("exec", container, "ls", "/tls").split()
        assert keys == sorted(["ca.pem", f"{name}.pem", f"{name}-key.pem"])
        has = docker("exec", container, "sh", "-c", "command -v gcc cc g++ || true")
        assert has == "", f"{service} has a compiler"


def test_without_a_token_nothing_is_told(deployment: Deployment, tmp_path: Path) -> None:
    environment = {**os.environ, "CALIGO_CA_CERTIFICATE": str(deployment.directory / "ca.pem")}
    environment.pop("CALIGO_TOKEN_FILE", None)
    command = [CALIGO, "list", "--address", f"127.0.0.1:{deployment.port}"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 6 and "token" in refused.stderr
    environment["CALIGO_CA_CERTIFICATE"] = ""
    plain = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert plain.returncode == 3, plain.stderr


def test_prometheus_reads_every_service(deployment: Deployment) -> None:
    deployment.compose("up", "-d", "prometheus")
    url = f"http://127.0.0.1:{deployment.prometheus_port}/api/v1/targets"

    def targets() -> dict[str, str]:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                found = json.load(answer)["data"]["activeTargets"]
        except OSError:  # it is not up yet
            return {}
        return {target["labels"]["job"]: target["health"] for target in found}

    services = ("sampler", "simulator", "surrogate", "orchestrator")
    wait_until(lambda: targets() == dict.fromkeys(services, "up"), 90, lambda: str(targets()))


def test_a_campaign_is_scaled_and_killed_and_its_file_is_the_same(deployment: Deployment, embedded: Path) -> None:
    (deployment.directory / "spec.yaml").write_text(SPEC)
    deployment.caligo("submit", "spec.yaml")

    def shown() -> str:
        return json.loads(deployment.caligo("show", "contained", "--json"))["state"]

    def is_under_way() -> None:
        assert shown() == "running", "the campaign ended before everything was tried"

    simulators = "caligo_farm_simulators"
    wait_until(lambda: deployment.metric(simulators) == 1, 60)
    for replicas in (3, 2):
        deployment.compose("up", "-d", "--scale", f"simulator={replicas}")
        wait_until(lambda replicas=replicas: deployment.metric(simulators) == replicas, 90)  # type: ignore[misc]
        is_under_way()
    for service in ("simulator", "sampler", "orchestrator", "surrogate-cpu"):
        is_under_way()
        docker("kill", deployment.containers(service)[0])
        time.sleep(2)
        deployment.compose("up", "-d", "--scale", "simulator=2")
        deployment.wait_healthy()
    # A process that dies by itself is started again by the engine.
    victim = deployment.containers("simulator")[0]
    os.kill(state(victim)["Pid"], signal.SIGKILL)
    wait_until(lambda: victim in deployment.containers("simulator"), 60)

    deployment.caligo("watch", "contained")
    assert shown() == "succeeded"
    deployment.caligo("download", "contained", "--output", "contained.h5")
    with open_campaign(deployment.directory / "contained.h5") as ours, open_campaign(embedded) as theirs:
        for phase in (Phase.LHS, Phase.ACTIVE):
            mine, other = ours.rows(phase), theirs.rows(phase)
            assert len(mine) == len(other) > 60
            for column in mine.dtype.names:
                if column != "metrics":
                    np.testing.assert_array_equal(mine[column], other[column], err_msg=column)
            np.testing.assert_array_equal(mine["metrics"][:, :-1], other["metrics"][:, :-1])


def test_nothing_is_left_after_down(deployment: Deployment) -> None:
    assert deployment.remains()
    deployment.compose("down", "--volumes")
    assert deployment.remains() == ""
