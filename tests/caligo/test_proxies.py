"""A proxy of the environment is in nobody's way: what is near is asked directly, and who goes through it is told."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from caligo_sampler.settings import SamplerSettings
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from caligo import rpc, telemetry, tracing
from caligo.addresses import proxy_variable
from caligo.client import AsyncCampaignClient, CampaignClient
from caligo.errors import Unreachable

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Lets nobody through; the first lines of those who tried."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # the test is over
                    return
                with connection:
                    asked.append(connection.recv(4096).partition(b"\r\n")[0])
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        for name in VARIABLES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield asked
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("may_be_proxied", [False, True])
@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "unix:"])
def test_this_machine_is_asked_directly(proxy: list[bytes], address: str, may_be_proxied: bool, tmp_path: Path) -> None:
    server = rpc.Server(f"unix:{tmp_path}/s" if address == "unix:" else address, [])
    server.start()
    with rpc.channel(server.address, may_be_proxied=may_be_proxied) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    server.stop(0)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING and not proxy


def test_services_reach_one_another_directly(proxy: list[bytes]) -> None:
    with rpc.channel("simulator.invalid:1") as channel, pytest.raises(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert not proxy


def test_a_client_says_that_it_went_through_a_proxy(proxy: list[bytes]) -> None:
    with (
        CampaignClient("gpu-box.invalid:50050") as client,
        pytest.raises(Unreachable, match=r"asked through the proxy of \$grpc_proxy, for \$no_proxy does not name it"),
    ):
        client.get("one")
    assert proxy[0] == b"CONNECT gpu-box.invalid:50050 HTTP/1.1"


def test_so_does_the_one_for_asyncio(proxy: list[bytes]) -> None:
    async def ask() -> None:
        async with AsyncCampaignClient("gpu-box.invalid:50050") as client:
            await client.get("one")

    with pytest.raises(Unreachable, match=r"asked through the proxy of \$grpc_proxy"):
        asyncio.run(ask())
    assert proxy


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Knows how often it was sent something."""

    exports = 0

    def Export(self, request, context):  # type: ignore[no-untyped-def]
        self.exports += 1
        return trace_service_pb2.ExportTraceServiceResponse()


def test_traces_are_sent_directly(proxy: list[bytes]) -> None:
    collector = Collector()
    register = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    server = rpc.Server("127.0.0.1:0", [rpc.Service("collector", register, collector)])
    server.start()
    with telemetry.serving(SamplerSettings(traces_endpoint=server.address)):
        assert tracing.active is not None
        tracing.active.tracer.start_span("something").end()
    server.stop(0)
    assert collector.exports and not proxy


def test_a_client_goes_past_it_where_it_is_told_to(proxy: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "other.invalid,.box.invalid")
    with CampaignClient("gpu.box.invalid:50050") as client, pytest.raises(Unreachable) as caught:
        client.get("one")
    assert not proxy and "proxy" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "variable"),
    [
        ("unix:/run/caligo", ""),
        ("localhost:1", ""),
        ("[::1]:1", ""),
        ("10.0.0.7:1", ""),
        ("192.168.1.2:1", ""),
        ("[fd00::1]:1", ""),
        ("169.254.1.1:1", ""),
        ("8.8.8.8:1", "https_proxy"),
        ("gpu-box:1", "https_proxy"),
        ("dns:///gpu-box:1", "https_proxy"),
    ],
)
def test_what_is_near_needs_no_proxy(address: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("grpc_proxy", raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.invalid")
    assert proxy_variable(address) == variable
