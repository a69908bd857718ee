"""The Helm chart as Helm renders it, and what Kubernetes would make of it."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "caligo"
NAMESPACE = "physics"


@dataclasses.dataclass(frozen=True)
class Release:
    """What Helm would send to the cluster."""

    objects: list[dict[str, Any]]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [o for o in self.objects if o["kind"] == kind]

    def get(self, kind: str, component: str) -> dict[str, Any]:
        (found,) = [o for o in self.all(kind) if o["metadata"]["labels"]["app.kubernetes.io/component"] == component]
        return found

    @property
    def workloads(self) -> dict[str, dict[str, Any]]:
        """By service."""
        return {w["metadata"]["labels"]["app.kubernetes.io/component"]: w for w in self.all("Deployment")} | {
            "orchestrator": self.get("StatefulSet", "orchestrator")
        }

    def pod(self, service: str) -> dict[str, Any]:
        return self.workloads[service]["spec"]["template"]["spec"]

    def container(self, service: str) -> dict[str, Any]:
        (container,) = self.pod(service)["containers"]
        return container

    def labels(self, service: str) -> dict[str, str]:
        return self.workloads[service]["spec"]["template"]["metadata"]["labels"]

    def environment(self, service: str) -> dict[str, str]:
        """Variables of the container, those included that kubelet computes."""
        container = self.container(service)
        found = {}
        for variable in container["env"]:
            if "valueFrom" in variable:
                field = variable["valueFrom"]["resourceFieldRef"]
                assert (field["containerName"], field["resource"]) == (container["name"], "limits.cpu")
                divided = cpus(container["resources"]["limits"]["cpu"]) / float(field["divisor"])
                variable = {"name": variable["name"], "value": str(math.ceil(divided))}  # kubelet rounds up
            assert variable["name"] not in found, "set twice"
            assert isinstance(variable["value"], str)
            found[variable["name"]] = variable["value"]
        return found

    def tls_files(self, service: str) -> dict[str, bytes]:
        """What the container finds in /tls, where Helm made the certificates."""
        (volume,) = [v["secret"] for v in self.pod(service)["volumes"] if "secret" in v]
        (secret,) = [s for s in self.all("Secret") if s["metadata"]["name"] == volume["secretName"]]
        return {item["path"]: base64.b64decode(secret["data"][item["key"]]) for item in volume["items"]}


def cpus(quantity: str | float) -> float:
    """Kubernetes' quantity as a number."""
    text = str(quantity)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def to_bytes(quantity: str) -> int:
    """The same of memory, in Mi or Gi."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()
    return int(number) * {"Mi": 2**20, "Gi": 2**30}[unit]


def helm(*requests: dict[str, Any]) -> list[dict[str, Any]]:
    """Helm's verdict on the chart and its answers, as `helm_render` gives them."""
    program = [sys.executable, "-m", "tests.deploy.helm_render"]
    done = subprocess.run(program, cwd=ROOT, input=json.dumps(requests), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def to_release(answer: dict[str, Any]) -> Release:
    """The objects of an answer."""
    assert "error" not in answer, answer
    texts = [text for name, text in answer["manifests"].items() if not name.endswith("NOTES.txt")]
    return Release([o for text in texts for o in yaml.safe_load_all(text) if o is not None])
