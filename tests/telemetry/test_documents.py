"""Documentation, dashboard and alerts name metrics that exist, and all of them are documented."""

from __future__ import annotations

import json
import re
from pathlib import Path

import caligo_orchestrator.metrics
import caligo_sampler.metrics
import caligo_simulator.metrics
import caligo_surrogate.metrics
import pytest
import yaml
from prometheus_client import REGISTRY

import caligo.instrumentation
import caligo.telemetry

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "observability"
MODULES = (
    caligo.instrumentation,
    caligo.telemetry,
    caligo_orchestrator.metrics,
    caligo_sampler.metrics,
    caligo_simulator.metrics,
    caligo_surrogate.metrics,
)
PARTS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",), "gauge": ("",)}
NAME = re.compile(r"\b(?:caligo|grpc|process)_[a-z0-9_]+")


@pytest.fixture(scope="module")
def series(observed) -> dict[str, set[str]]:
    """Labels by the name of every series that a service may show."""
    found: dict[str, set[str]] = {}
    for metrics in observed.metrics.values():  # what is read on demand has no object of its own
        for name, lines in metrics.items():
            found.setdefault(name, set()).update(*(labels for labels, _ in lines))
    for family in REGISTRY.collect():
        collector = REGISTRY._names_to_collectors.get(family.name)
        for part in PARTS.get(family.type, ()):
            found.setdefault(family.name + part, set()).update(getattr(collector, "_labelnames", ()))
    return found


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana/caligo.json").read_text())
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert len(shown) > 30 and len(alerts) > 5
    return shown + alerts


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_is_about_series_that_exist(expression, series) -> None:
    assert expression.count("(") == expression.count(")")
    bare = re.sub(r'"[^"]*"', '""', expression)
    names = NAME.findall(re.sub(r"\{[^}]*\}|\bby \([^)]*\)", "", bare))
    assert names or "up{" in expression
    known = {"job", "instance"}.union(*(series[name] for name in names))
    labels = re.findall(r"(\w+)\s*(?:=~|!=|=)\s*\"", bare)
    for group in re.findall(r"\bby \(([^)]*)\)", bare):
        labels += [label.strip() for label in group.split(",")]
    assert set(labels) <= known


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = json.loads((DEPLOY / "grafana/caligo.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_what_prometheus_reads_fits_together() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert [job["job_name"] for job in config["scrape_configs"]] == [
        "orchestrator",
        "sampler",
        "simulator",
        "surrogate",
    ]
    for name in config["rule_files"]:
        assert (DEPLOY / name).is_file()
    source = yaml.safe_load((DEPLOY / "grafana/datasource.yml").read_text())["datasources"][0]
    panels = json.loads((DEPLOY / "grafana/caligo.json").read_text())["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}


def test_every_metric_is_documented_and_nothing_else(series) -> None:
    ours = {name for name in series if name.startswith(("caligo_", "grpc_"))}
    text = (ROOT / "docs/observability.md").read_text()
    documented = set(re.findall(r"^\| `((?:caligo|grpc)_[a-z0-9_]+)", text, re.MULTILINE))
    assert documented == {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours}
