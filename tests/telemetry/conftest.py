"""The four services as processes, with a campaign that has been traced, scraped and logged."""

from __future__ import annotations

import dataclasses
import json
import secrets
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from caligo.cli.embedded import WORKING_SERVICES, ServiceProcess
from caligo.client import CampaignClient
from caligo.spec import CampaignSpec, validate

SPEC = {
    "name": "followed",
    "seed": 5,
    "space": {"bounds": {"N": [3.2e4, 1.0e5], "eta": [0.5, 1.0]}},
    "protocol": {"max_decoded_frames": 4},
    "surrogate": {"training_steps": 5},
    "lhs": {"samples": 16},
    "active": {"samples": 4, "batch_size": 2},
}


@dataclasses.dataclass(frozen=True)
class Span:
    """A span as a collector sees it; ids are hexadecimal, `parent` is empty for a root."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    links: tuple[str, ...]
    seconds: float


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes OTLP like any collector, and keeps it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._lock = threading.Lock()

    def Export(self, request: Any, context: Any) -> Any:
        with self._lock:
            for resource in request.resource_spans:
                service = _plain(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    self.spans += [_span(service, span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def _span(service: str, span: Any) -> Span:
    return Span(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _plain(span.attributes),
        tuple(link.trace_id.hex() for link in span.links),
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in attributes}


Metrics = dict[str, list[tuple[dict[str, str], float]]]
"""Labels and value of every series, by name."""


@dataclasses.dataclass
class Observed:
    """What the services have left behind."""

    campaign: str
    spans: list[Span]
    metrics: dict[str, Metrics]
    """By service, when the campaign had ended and the services were still there."""
    lines: dict[str, list[dict[str, Any]]]
    """Log lines, by service."""

    def value(self, service: str, name: str, /, **labels: str) -> float:
        """Sum of the series that have these labels."""
        series = self.metrics[service].get(name, [])
        return sum(value for found, value in series if labels.items() <= found.items())


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    directory = tmp_path_factory.mktemp("telemetry")
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    processes: dict[str, ServiceProcess] = {}

    def start(name: str, *flags: str) -> None:
        processes[name] = ServiceProcess(
            name,
            f"unix:{directory / name}",
            directory / f"{name}.log",
            [
                "--metrics-address",
                "127.0.0.1:0",
                "--traces-endpoint",
                f"127.0.0.1:{port}",
                "--log-level",
                "debug",
                *flags,
            ],
        )

    try:
        for name in WORKING_SERVICES:
            namespace = f"telemetry-{secrets.token_hex(4)}"
            start(name, *(("--workers", "2", "--namespace", namespace) if name == "simulator" else ()))
        addresses = [flag for name, process in processes.items() for flag in (f"--{name}", process.address)]
        start("orchestrator", "--data-directory", str(directory / "data"), *addresses)
        for process in processes.values():
            process.wait_until_serving()
        with CampaignClient(processes["orchestrator"].address) as client:
            campaign = client.create(validate(CampaignSpec, SPEC)).name
            for _ in client.watch(campaign):
                pass
            assert client.get(campaign).state.name == "SUCCEEDED"
        metrics = {name: scrape(directory / f"{name}.log") for name in processes}
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()
        server.stop(None)
    lines = {name: read_lines(directory / f"{name}.log") for name in processes}
    yield Observed(campaign, collector.spans, metrics, lines)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def scrape(log: Path) -> Metrics:
    """Everything that a service shows, from where its log says it is."""
    address = next(line["address"] for line in read_lines(log) if line["event"] == "metrics")
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: Metrics = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)
