"""All four services of one campaign answer health checks and reflection while they run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from caligo import rpc
from caligo.cli.embedded import WORKING_SERVICES, ServiceProcess

METHODS = {
    "caligo.v1.SamplerService": {"StreamDesign", "CheckFeasibility"},
    "caligo.v1.SimulatorService": {"Simulate", "GetCapacity"},
    "caligo.v1.SurrogateService": {
        "CreateModel", "GetModel", "DeleteModel", "Observe", "FitModel", "ProposeBatch", "ScreenRows", "PredictRows",
        "ExportModel", "ImportModel", "GetBoundary", "ExplainModel",
    },
    "caligo.v1.CampaignService": {
        "CreateCampaign", "GetCampaign", "ListCampaigns", "UpdateCampaign", "DeleteCampaign", "PauseCampaign",
        "ResumeCampaign", "CancelCampaign", "WatchCampaign", "StreamResults", "DownloadDataset", "PredictCampaign",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of the four services by full name."""
    directory = tmp_path_factory.mktemp("contract")
    processes: list[ServiceProcess] = []

    def start(name: str, *flags: str) -> None:
        processes.append(ServiceProcess(name, f"unix:{directory / name}", directory / f"{name}.log", list(flags)))

    try:
        for name in WORKING_SERVICES:
            start(name)
        addresses = [f for p in processes for f in (f"--{p.name}", p.address)]
        start("orchestrator", "--data-directory", str(directory / "data"), *addresses)
        for process in processes:
            process.wait_until_serving()
        yield dict(zip(METHODS, [p.address for p in processes], strict=True))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


@pytest.mark.parametrize("name", METHODS)
def test_health(services, name) -> None:
    with rpc.channel(services[name]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", name):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("name", METHODS)
def test_reflection_lists_and_describes_the_service(services, name) -> None:
    with rpc.channel(services[name]) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
        ]
        listed, described = stub.ServerReflectionInfo(iter(questions), timeout=5)
    assert name in {service.name for service in listed.list_services_response.service}
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(text)
        for text in described.file_descriptor_response.file_descriptor_proto
    ]
    methods = {m.name for f in files for s in f.service if f"{f.package}.{s.name}" == name for m in s.method}
    assert methods == METHODS[name]


def test_generated_code_matches_the_contract(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    protos = sorted((root / "protos" / "caligo" / "v1").glob("*.proto"))
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", root / "protos", f"--python_out={tmp_path}",
         f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}", *protos],
        check=True,
    )  # fmt: skip
    for made in (tmp_path / "caligo" / "v1").iterdir():
        assert made.read_bytes() == (root / "caligo" / "v1" / made.name).read_bytes(), made.name
