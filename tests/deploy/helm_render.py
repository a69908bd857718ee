"""Helm's own code over the chart: a JSON array of requests on standard input, one of answers on standard output.

Run as a process of its own: Helm brings Go's runtime, whose threads and signal handlers are not for a process that
forks later.

A request is an object of
    values      overrides as an object, or as the text of `--set`
    apiserver   URL of the Kubernetes API that `lookup` asks; without one nothing is found, as in `helm template`
and its answer is {"manifests": {template: text}}, or {"error": text} where Helm refuses. The first answer is Helm's
verdict on the chart itself, as of `helm lint --strict`: {"lint": [message, ...]}.
"""

import json
import sys
from typing import Any

import helm_python as helm

from tests.deploy.chart import CHART, NAMESPACE

RELEASE = {"name": "caligo", "namespace": NAMESPACE}


def answer(chart: helm.Chart, request: dict[str, Any]) -> dict[str, Any]:
    values = request.get("values", {})
    try:
        if isinstance(values, str):
            values = helm.parse_set_string(values)
        chart.validate_schema(values)
        if "apiserver" in request:
            with helm.Config(kube_apiserver=request["apiserver"], namespace=NAMESPACE) as cluster:
                return {"manifests": cluster.render(chart, values, **RELEASE, is_upgrade=True)}
        return {"manifests": chart.render(values, **RELEASE)}
    except helm.HelmError as error:
        return {"error": str(error)}


with helm.Chart.load(CHART) as chart:
    report = helm.lint(CHART, {}, strict=True, namespace=NAMESPACE)
    verdict = [f"{message['path']}: {message['error']}" for message in report["messages"] if message["severity"] > 1]
    json.dump([{"lint": verdict}, *(answer(chart, request) for request in json.load(sys.stdin))], sys.stdout)
