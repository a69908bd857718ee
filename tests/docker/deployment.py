"""A project of `docker-compose` of one's own, used as people use theirs: an environment file, `caligo` from outside."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMPOSE = os.environ.get("DOCKER_COMPOSE") or shutil.which("docker-compose") or "docker-compose"
BASE = os.environ.get("DEPLOY_BASE", "caligo-base:bookworm")
CALIGO = str(Path(sys.executable).with_name("caligo"))
SERVICES = ("sampler", "simulator", "surrogate-cpu", "orchestrator")


class Deployment:
    """One project of `docker-compose`, with settings of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.project = f"caligo-test-{os.getpid()}"
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            self.port, self.prometheus_port = one.getsockname()[1], other.getsockname()[1]
        given = {
            "COMPOSE_PROFILES": "cpu",
            "DEPLOY_BASE": BASE,
            "DEPLOY_BIND": "127.0.0.1",
            "DEPLOY_PORT": str(self.port),
            "DEPLOY_PROMETHEUS": "caligo-prometheus:bookworm",
            "DEPLOY_PROMETHEUS_PORT": str(self.prometheus_port),
            "CALIGO_SIMULATOR_WORKERS": "1",
        }
        self.env_file = directory / "deployment.env"
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in given.items()))

    def compose(self, *arguments: str, check: bool = True, seconds: float = 300) -> str:
        command = [COMPOSE, "--env-file", str(self.env_file), "--project-name", self.project, *arguments]
        environment = {**os.environ, "DEPLOY_ENV_FILE": str(self.env_file)}
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert ended.returncode == 0 or not check, f"{' '.join(arguments)}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def containers(self, service: str) -> list[str]:
        """Ids of the containers of a service that run."""
        return docker(
            "ps", "-q", "--filter", f"label=com.docker.compose.project={self.project}",
            "--filter", f"label=com.docker.compose.service={service}",
        ).split()  # fmt: skip

    def wait_healthy(self, seconds: float = 180) -> None:
        """Until every container that runs says that it is, and each service has one."""

        def is_healthy() -> bool:
            running = {service: self.containers(service) for service in SERVICES}
            states = [state(one)["Health"]["Status"] for ids in running.values() for one in ids]
            return all(running.values()) and all(status == "healthy" for status in states)

        wait_until(is_healthy, seconds, lambda: self.compose("ps") + self.compose("logs", "--tail=20"))

    def metric(self, name: str) -> float:
        """A gauge or counter of the orchestrator, asked from inside its container."""
        (container,) = self.containers("orchestrator")
        script = (
            "import ssl, urllib.request; context = ssl.create_default_context(cafile='/tls/ca.pem'); "
            "print(urllib.request.urlopen('https://localhost:9464/metrics', context=context).read().decode())"
        )
        for line in docker("exec", container, "python", "-c", script).splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(f"the orchestrator has no metric {name}")

    def caligo(self, *arguments: object) -> str:
        """The command, from outside, over TLS with a token."""
        command = [CALIGO, *map(str, arguments)]
        environment = {
            **os.environ,
            "CALIGO_ADDRESS": f"127.0.0.1:{self.port}",
            "CALIGO_CA_CERTIFICATE": str(self.directory / "ca.pem"),
            "CALIGO_TOKEN_FILE": str(self.directory / "alice.token"),
        }
        ended = subprocess.run(
            command, cwd=self.directory, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def remains(self) -> str:
        """What Docker still has of this project."""
        label = ("--filter", f"label=com.docker.compose.project={self.project}")
        return (
            docker("ps", "-aq", *label) + docker("network", "ls", "-q", *label) + docker("volume", "ls", "-q", *label)
        )


def docker(*arguments: str, check: bool = True) -> str:
    ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0 or not check, f"docker {' '.join(arguments)}: {ended.stderr}"
    return ended.stdout


def state(container: str) -> dict[str, Any]:
    return json.loads(docker("inspect", "--format", "{{json .State}}", container))


def wait_until(condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(1)
