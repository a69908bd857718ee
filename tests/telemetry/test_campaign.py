"""A campaign seen from outside: its traces, its metrics and its log lines, over four real services."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import caligo_orchestrator.metrics
import caligo_sampler.metrics
import caligo_simulator.metrics
import caligo_surrogate.metrics
import pytest
import yaml
from caligo_orchestrator.settings import OrchestratorSettings
from prometheus_client import REGISTRY

import caligo.instrumentation
import caligo.telemetry
from caligo import tracing

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
SERVICES = ("sampler", "simulator", "surrogate", "orchestrator")
STAGES = {"quantum", "choice of code", "reconciliation", "amplification"}


def rows_of(observed, phase: str) -> dict[int, list]:
    found: dict[int, list] = {}
    for span in observed.spans:
        if span.attributes.get("caligo.phase") == phase:
            found.setdefault(span.attributes["caligo.row"], []).append(span)
    return found


def test_an_active_row_is_one_trace_through_all_services(observed) -> None:
    rows = rows_of(observed, "active")
    assert {0, 1, 2, 3} <= set(rows)
    simulated = [index for index, spans in rows.items() if any(span.name == "simulate" for span in spans)]
    assert simulated
    for index in simulated:
        trace = tracing.trace_id(observed.campaign, "active", index)
        names = Counter((span.service.removeprefix("caligo-"), span.name) for span in rows[index])
        assert names == {
            ("surrogate", "propose"): 1,
            ("surrogate", "screen"): 1,
            ("sampler", "check"): 1,
            ("orchestrator", "queue"): 1,
            ("orchestrator", "simulator"): 1,
            ("simulator", "simulate"): 1,
            ("orchestrator", "journal"): 1,
            ("orchestrator", "hdf5"): 1,
            ("orchestrator", "row"): 1,
            ("surrogate", "observe"): 1,
        }
        assert {span.trace for span in rows[index]} == {trace}
        (root,) = (span for span in rows[index] if span.name == "row")
        assert root.parent == ""
        assert {span.parent for span in rows[index] if span is not root} == {root.id}
        (simulate,) = (span for span in rows[index] if span.name == "simulate")
        stages = [span for span in observed.spans if span.parent == simulate.id]
        assert {span.name for span in stages} <= STAGES
        assert stages and {span.trace for span in stages} == {trace}
        assert sum(span.seconds for span in stages) <= simulate.seconds <= root.seconds


def test_a_row_of_the_warm_up_begins_at_the_sampler(observed) -> None:
    rows = rows_of(observed, "lhs")
    assert set(rows) == set(range(len(rows)))
    for index, spans in rows.items():
        assert {span.trace for span in spans} == {tracing.trace_id(observed.campaign, "lhs", index)}
        names = {(span.service.removeprefix("caligo-"), span.name) for span in spans}
        assert {("sampler", "design"), ("orchestrator", "journal"), ("orchestrator", "hdf5")} <= names
        assert ("surrogate", "observe") in names
        assert len(names) == len(spans)


def test_spans_of_rows_link_to_the_calls_that_carried_them(observed) -> None:
    calls = {span.trace: span for span in observed.spans if "rpc.method" in span.attributes}
    for name, method in (("design", "StreamDesign"), ("propose", "ProposeBatch"), ("observe", "Observe")):
        spans = [span for span in observed.spans if span.name == name]
        assert spans
        for span in spans:
            (link,) = span.links
            assert calls[link].attributes["rpc.method"].endswith(f"/{method}")


def test_a_call_is_one_trace_on_both_sides(observed) -> None:
    """The caller's context arrives with the call."""
    for method in ("caligo.v1.SurrogateService/ProposeBatch", "caligo.v1.SamplerService/StreamDesign"):
        ours = [s for s in observed.spans if s.name == method and s.service == "caligo-orchestrator"]
        theirs = {s.parent: s for s in observed.spans if s.name == method and s.service != "caligo-orchestrator"}
        assert ours
        for span in ours:
            assert theirs[span.id].trace == span.trace


def test_rows_are_counted_by_what_became_of_them(observed) -> None:
    durable = observed.value("orchestrator", "caligo_rows_total", phase="lhs")
    assert durable == len(rows_of(observed, "lhs"))
    assert observed.value("orchestrator", "caligo_rows_total", phase="active") == 4
    skipped = sum(
        observed.value("orchestrator", "caligo_rows_total", outcome=outcome)
        for outcome in ("skipped_infeasible", "skipped_predicted_failure")
    )
    simulated = observed.value("simulator", "caligo_simulator_samples_total")
    assert simulated == durable + 4 - skipped
    assert observed.value("orchestrator", "caligo_row_simulation_seconds_count") == simulated
    assert observed.value("orchestrator", "caligo_row_queue_seconds_count") == simulated
    assert observed.value("simulator", "caligo_simulator_stage_seconds_count", stage="quantum") >= simulated
    assert observed.value("orchestrator", "caligo_journal_commit_rows_sum") == durable + 4
    assert observed.value("sampler", "caligo_sampler_rows_total", work="checked") == 4


def test_gauges_say_how_things_stand(observed) -> None:
    assert observed.value("orchestrator", "caligo_campaigns", state="succeeded") == 1
    assert observed.value("orchestrator", "caligo_campaigns") == 1
    for name in ("journal_lag_rows", "hdf5_lag_rows", "farm_queue_rows", "farm_in_flight_rows"):
        assert observed.value("orchestrator", f"caligo_{name}") == 0
    assert observed.value("simulator", "caligo_simulator_workers") == 2
    assert observed.value("simulator", "caligo_simulator_slots") == 4
    assert observed.value("simulator", "caligo_simulator_slots_in_use") == 0
    assert observed.value("surrogate", "caligo_surrogate_device_info", device="cpu") >= 0
    assert observed.value("surrogate", "caligo_surrogate_sound_answers_total", task="posterior", rung="0") > 0
    assert observed.value("surrogate", "caligo_surrogate_memory_budget_bytes") > 0
    for service in SERVICES:
        assert observed.value(service, "process_resident_memory_bytes") > 2**24
        assert observed.value(service, "caligo_build_info", service=service) == 1


def test_calls_are_timed_on_both_sides(observed) -> None:
    for method in ("ProposeBatch", "FitModel", "Observe"):
        labels = {"grpc_method": f"caligo.v1.SurrogateService/{method}"}
        count = observed.value("surrogate", "grpc_server_call_duration_seconds_count", grpc_status="OK", **labels)
        assert count > 0
        assert observed.value("surrogate", "grpc_server_call_started_total", **labels) == count
        assert observed.value("orchestrator", "grpc_client_call_duration_seconds_count", **labels) == count
        assert observed.value("surrogate", "caligo_server_calls_open", **labels) == 0
    watch = {"grpc_method": "caligo.v1.CampaignService/WatchCampaign"}
    assert observed.value("orchestrator", "grpc_server_call_duration_seconds_count", grpc_status="OK", **watch) == 1


def test_nothing_is_labelled_with_a_campaign_or_a_row(observed) -> None:
    for metrics in observed.metrics.values():
        for series in metrics.values():
            for labels, _ in series:
                assert observed.campaign not in labels.values()
                assert not {"campaign", "row", "index"} & set(labels)
        assert sum(map(len, metrics.values())) < 2000


def test_log_lines_say_whose_they_are(observed) -> None:
    for service in SERVICES:
        lines = observed.lines[service]
        assert {line["service"] for line in lines} == {service}
    models = [line for line in observed.lines["surrogate"] if line["event"] in ("model made", "observed")]
    assert models
    for line in models:
        assert line["campaign"] == observed.campaign
        assert re.fullmatch(r"[0-9a-f]{32}", line["trace_id"])
    notes = [line for line in observed.lines["orchestrator"] if line["event"].startswith("phase")]
    assert len(notes) >= 3
    assert {line["campaign"] for line in notes} == {observed.campaign}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_traces_ends_in_order(observed, service) -> None:
    assert observed.lines[service][-1]["event"] == "stopped"


def test_settings_are_those_of_the_documentation() -> None:
    for name in ("metrics_address", "traces_endpoint", "traces_share"):
        assert name in OrchestratorSettings.model_fields


# --- documentation, dashboard and alerts name metrics that exist, and all of them are documented ----------------------


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


def test_every_metric_is_documented_and_nothing_else(series) -> None:
    ours = {name for name in series if name.startswith(("caligo_", "grpc_"))}
    text = (ROOT / "docs/observability.md").read_text()
    documented = set(re.findall(r"^\| `((?:caligo|grpc)_[a-z0-9_]+)", text, re.MULTILINE))
    assert documented == {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours}
