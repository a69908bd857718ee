"""The Helm chart's pods as containers: what Kubernetes would tell its nodes, told to Docker.

No cluster, but the real images with the variables, users, volumes, limits and certificates that Helm rendered.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.deploy.chart import Release, helm, to_bytes, to_release
from tests.docker.deployment import CALIGO, docker, state, wait_until

VALUES = {
    "simulator": {
        "replicas": 2,
        "autoscaling": {"enabled": False},
        "resources": {"requests": {"cpu": 1}, "limits": {"cpu": 1, "memory": "2Gi"}},
    }
}
SPEC = """
name: charted
seed: 5
space: {bounds: {N: [3.2e4, 2.0e5], eta: [0.5, 1.0]}}
protocol: {max_decoded_frames: 8}
surrogate: {training_steps: 5}
lhs: {samples: 1200}
active: {samples: 8, batch_size: 4}
"""


@dataclasses.dataclass
class Pods:
    """Containers of a release, named PROJECT-SERVICE-REPLICA, with one network and one volume."""

    release: Release
    directory: Path
    project: str = f"caligo-chart-{os.getpid()}"

    def names(self, service: str) -> list[str]:
        return [f"{self.project}-{service}-{i}" for i in range(self.release.workloads[service]["spec"]["replicas"])]

    def up(self) -> None:
        docker("network", "create", "--internal", self.project)
        docker("volume", "create", self.project)
        for service in self.release.workloads:
            for name in self.names(service):
                self._start(service, name)

    def _start(self, service: str, name: str) -> None:
        pod, container = self.release.pod(service), self.release.container(service)
        user, limits = pod["securityContext"], container["resources"]["limits"]
        arguments = ["--name", name, "--network", self.project]
        arguments += ["--network-alias", self.release.get("Service", service)["metadata"]["name"]]
        arguments += ["--user", f"{user['runAsUser']}:{user['runAsGroup']}", "--group-add", str(user["fsGroup"])]
        arguments += ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"]
        arguments += ["--no-healthcheck", "--memory", str(to_bytes(limits["memory"]))]
        for variable, value in self.release.environment(service).items():
            arguments += ["--env", f"{variable}={value}"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mount in container["volumeMounts"]:
            path, volume = mount["mountPath"], volumes.get(mount["name"])
            if volume is None:  # of a volumeClaimTemplate
                at = Path(docker("volume", "inspect", self.project, "--format", "{{.Mountpoint}}").strip())
                os.chown(at, 0, user["fsGroup"])
                at.chmod(0o2775)
                arguments += ["--volume", f"{self.project}:{path}"]
            elif "secret" in volume:
                arguments += ["--volume", f"{self._secret(service, user['fsGroup'], volume)}:{path}:ro"]
            elif path == "/dev/shm":
                arguments += ["--shm-size", str(to_bytes(volume["emptyDir"]["sizeLimit"]))]
            else:
                arguments += ["--tmpfs", f"{path}:exec,mode=0777,size={to_bytes(volume['emptyDir']['sizeLimit'])}"]
        docker("run", "--detach", *arguments, container["image"])

    def _secret(self, service: str, group: int, volume: dict[str, Any]) -> Path:
        directory = self.directory / service
        directory.mkdir(exist_ok=True)
        for name, content in self.release.tls_files(service).items():
            (directory / name).write_bytes(content)
            os.chown(directory / name, 0, group)
            (directory / name).chmod(volume["secret"]["defaultMode"])
        return directory

    def wait_ready(self) -> None:
        """Until the probe of every container that should run says so."""
        for service in self.release.workloads:
            probe = self.release.container(service)["readinessProbe"]["exec"]["command"]
            for name in self.names(service):
                wait_until(functools.partial(_succeeds, name, probe), 180, functools.partial(docker, "logs", name))

    def down(self) -> None:
        for service in self.release.workloads:
            docker("rm", "--force", *self.names(service), check=False)
        docker("network", "rm", self.project, check=False)
        docker("volume", "rm", self.project, check=False)


def _succeeds(container: str, command: list[str]) -> bool:
    done = subprocess.run(["docker", "exec", container, *command], capture_output=True, timeout=60, check=False)
    return done.returncode == 0


@pytest.fixture(scope="module")
def pods(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    _, answer = helm({"values": VALUES})
    made = Pods(to_release(answer), tmp_path_factory.mktemp("pods"))
    made.directory.chmod(0o755)
    try:
        made.up()
        made.wait_ready()
        yield made
    finally:
        made.down()


def test_a_campaign_runs_in_the_pods_and_its_file_is_the_embedded_one(pods: Pods, tmp_path: Path) -> None:
    (orchestrator,), (_, leaving) = pods.names("orchestrator"), pods.names("simulator")
    made = docker("exec", orchestrator, "caligo", "token", "create", "alice", "--data-directory", "/data")
    (tmp_path / "alice.token").write_text(made)
    (tmp_path / "ca.pem").write_bytes(pods.release.tls_files("orchestrator")["ca.pem"])
    (tmp_path / "spec.yaml").write_text(SPEC)

    def caligo(*arguments: str) -> str:
        address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        environment = {
            **os.environ,
            "CALIGO_ADDRESS": f"{docker('inspect', '--format', address, orchestrator).strip()}:50050",
            "CALIGO_SERVER_NAME": "caligo-orchestrator",
            "CALIGO_CA_CERTIFICATE": "ca.pem",
            "CALIGO_TOKEN_FILE": "alice.token",
        }
        command = [CALIGO, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def progress() -> dict[str, Any]:
        return json.loads(caligo("show", "charted", "--json"))

    caligo("submit", "spec.yaml")
    wait_until(lambda: progress()["progress"]["simulated"] > 0, 120)
    docker("kill", "--signal", "TERM", leaving)  # as an autoscaler on its way down has it
    docker("restart", "--time", "30", orchestrator)
    probe = pods.release.container("orchestrator")["readinessProbe"]["exec"]["command"]
    wait_until(lambda: _succeeds(orchestrator, probe), 60)
    assert progress()["state"] == "running", "it ended before everything was tried"
    caligo("watch", "charted")
    assert progress()["state"] == "succeeded"
    assert (state(leaving)["Status"], state(leaving)["ExitCode"]) == ("exited", 0)
    caligo("download", "charted", "--output", "charted.h5")

    embedded = [CALIGO, "run", "spec.yaml", "--output", "embedded"]
    subprocess.run(embedded, cwd=tmp_path, check=True, capture_output=True, timeout=900)
    other = tmp_path / "embedded" / "campaigns" / "charted" / "exploration_data.h5"
    with h5py.File(tmp_path / "charted.h5") as ours, h5py.File(other) as theirs:
        for group in ("lhs_warmup", "active_learning"):
            assert len(ours[group]["index"]) >= 8
            for name in ours[group]:
                mine, expected = ours[group][name][:], theirs[group][name][:]
                if name == "metrics":
                    mine, expected = mine[:, :-1], expected[:, :-1]  # without wall_seconds
                np.testing.assert_array_equal(mine, expected, err_msg=f"{group}/{name}")
