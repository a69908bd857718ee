"""Encryption, certificates on both sides, renewal, and what is said of files that cannot be used."""

from __future__ import annotations

import asyncio
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from caligo_orchestrator.farm.replicas import ReplicaFarm
from caligo_orchestrator.model.remote import Sampler
from caligo_orchestrator.settings import OrchestratorSettings
from grpc_health.v1 import health_pb2, health_pb2_grpc

from caligo import rpc, telemetry, wire
from caligo.cli import main
from caligo.client import AsyncCampaignClient, CampaignClient
from caligo.errors import InvalidArgument, Unreachable
from caligo.settings import ServiceSettings
from caligo.space import PRESETS, Space
from caligo.spec import CampaignSpec
from caligo.tls import Tls
from caligo.v1 import sampler_pb2, sampler_pb2_grpc
from tests.orchestrator.test_farm import SERVICE, Customer, Replica, free_port, register

Issue = Callable[..., Tls]


class TeapotSettings(ServiceSettings, section="teapot"):
    """A service that is not there."""


@pytest.fixture
def listen() -> Iterator[Callable[[Tls], str]]:
    servers = []

    def listen(tls: Tls, *services: rpc.Service) -> str:
        server = rpc.Server("127.0.0.1:0", services, tls=tls)
        server.start()
        servers.append(server)
        return f"localhost:{server.address.rpartition(':')[2]}"

    yield listen
    for server in servers:
        server.stop(0)


def reach(address: str, tls: Tls | None, seconds: float = 10) -> None:
    """Ask for the health of a server.

    Raises:
        Unreachable: there is no understanding.
    """
    with rpc.channel(address, tls) as channel, rpc.calling(address):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=seconds)


def trusting(ca: trustme.CA, tmp_path: Path, name: str = "trusted.pem", **more: object) -> Tls:
    ca.cert_pem.write_to_path(tmp_path / name)
    return Tls(tmp_path / name, **more)


def test_a_server_is_believed_that_shows_the_right_certificate(
    issue: Issue, listen: Callable, authority: trustme.CA, tmp_path: Path
) -> None:
    address = listen(issue("localhost"))
    reach(address, trusting(authority, tmp_path))
    for stranger in (None, trusting(trustme.CA(), tmp_path, "other.pem")):
        with pytest.raises(Unreachable):
            reach(address, stranger)


def test_the_name_in_the_certificate_counts(
    issue: Issue, listen: Callable, authority: trustme.CA, tmp_path: Path
) -> None:
    address = listen(issue("orchestrator"))
    with pytest.raises(Unreachable):
        reach(address, trusting(authority, tmp_path))
    reach(address, trusting(authority, tmp_path, server_name="orchestrator"))


def test_with_mutual_tls_a_client_needs_a_certificate_too(
    issue: Issue, listen: Callable, authority: trustme.CA, tmp_path: Path
) -> None:
    address = listen(issue("localhost", ca=True))
    mine, foreign = issue("client"), issue("stranger", by=trustme.CA())
    authority.cert_pem.write_to_path(tmp_path / "tls" / "ca.pem")
    reach(address, trusting(authority, tmp_path, certificate=mine.certificate, key=mine.key))
    for certificate, key in ((None, None), (foreign.certificate, foreign.key)):
        with pytest.raises(Unreachable):
            reach(address, trusting(authority, tmp_path, certificate=certificate, key=key))


def test_a_client_without_tls_is_told_that_the_server_speaks_it(
    issue: Issue, listen: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = listen(issue("localhost"))
    said = f"{address}: answers through TLS alone; give the authorities"
    with CampaignClient(address) as client, pytest.raises(Unreachable, match=said):
        client.get("x")
    monkeypatch.setattr(sys, "argv", ["caligo", "list", "--address", address])
    assert main() == 3
    assert capsys.readouterr().err.startswith(f"caligo: {said}")

    async def ask() -> None:
        async with AsyncCampaignClient(address) as client:
            await client.get("x")

    with pytest.raises(Unreachable, match=said):
        asyncio.run(ask())


def test_a_renewed_certificate_is_taken_without_a_restart(
    issue: Issue, listen: Callable, authority: trustme.CA, tmp_path: Path
) -> None:
    successor = trustme.CA()
    old, new = trusting(authority, tmp_path), trusting(successor, tmp_path, "new.pem")
    tls = issue("localhost")
    address = listen(tls)
    reach(address, old)
    before = tls.certificate.read_bytes()
    tls.certificate.write_text("half of a certifi")  # as it may be found while somebody writes
    reach(address, old)
    issue("localhost", by=successor)
    assert tls.certificate.read_bytes() != before
    reach(address, new)
    with pytest.raises(Unreachable):
        reach(address, old)


def test_asyncio_channels_speak_it_too(issue: Issue, listen: Callable, authority: trustme.CA, tmp_path: Path) -> None:
    address = listen(issue("localhost"))

    async def ask() -> int:
        async with rpc.aio_channel(address, trusting(authority, tmp_path), token="t") as channel:
            return (await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)).status

    assert asyncio.run(ask()) == health_pb2.HealthCheckResponse.SERVING


class Feasible(sampler_pb2_grpc.SamplerServiceServicer):
    def CheckFeasibility(self, request_iterator, context):
        for request in request_iterator:
            margin = np.ones(len(wire.decode_inputs(request.inputs)), dtype=np.float32)
            yield sampler_pb2.CheckFeasibilityResponse(feasibility_margin=wire.encode(margin, wire.FEASIBILITY))


def test_the_orchestrator_calls_services_with_its_own_certificate(
    issue: Issue, listen: Callable, authority: trustme.CA, tmp_path: Path
) -> None:
    service = rpc.Service("s", sampler_pb2_grpc.add_SamplerServiceServicer_to_server, Feasible())
    address = listen(issue("sampler", ca=True), service)
    mine = issue("orchestrator")
    settings = OrchestratorSettings(
        services_ca=tmp_path / "tls" / "ca.pem",
        services_certificate=mine.certificate,
        services_key=mine.key,
        services_name="sampler",
    )
    sampler = Sampler(address, settings.services_tls())
    rows = Space(PRESETS["cliff"]).from_unit(np.full((3, 9), 0.5))
    assert sampler.feasible(CampaignSpec(), rows).tolist() == [True] * 3
    sampler.close()


def test_an_address_that_others_reach_needs_tls(issue: Issue) -> None:
    with pytest.raises(InvalidArgument, match="tls_certificate"):
        rpc.Server("0.0.0.0:0", [])
    rpc.Server("0.0.0.0:0", [], tls=issue("localhost")).stop(0)


def test_a_unix_socket_stays_plain(issue: Issue, tmp_path: Path) -> None:
    server = rpc.Server(f"unix:{tmp_path}/s", [], tls=issue("localhost"))
    server.start()
    reach(server.address, None)
    reach(server.address, issue("other", ca=True))
    server.stop(0)


@pytest.fixture
def files(issue: Issue, tmp_path: Path) -> Path:
    """Good files by the name of `localhost`, `other` with another key, and bad ones."""
    issue("localhost", ca=True)
    issue("other")
    tls = tmp_path / "tls"
    (tls / "text.pem").write_text("hello")
    (tls / "key-as-certificate.pem").symlink_to(tls / "localhost-key.pem")
    return tls


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"certificate": "localhost.pem"}, "tls_key: must be set where tls_certificate is"),
        ({"key": "localhost-key.pem"}, "tls_certificate: must be set where tls_key is"),
        ({"client_ca": "ca.pem"}, "tls_client_ca: needs tls_certificate and tls_key"),
        (
            {"certificate": "nothing.pem", "key": "localhost-key.pem"},
            "tls_certificate: {tls}/nothing.pem: No such file",
        ),
        ({"certificate": "localhost.pem", "key": "nothing.pem"}, "tls_key: {tls}/nothing.pem: No such file"),
        (
            {"certificate": "text.pem", "key": "localhost-key.pem"},
            "tls_certificate: {tls}/text.pem holds no certificate",
        ),
        (
            {"certificate": "key-as-certificate.pem", "key": "localhost-key.pem"},
            "tls_certificate: {tls}/key-as-certificate.pem holds no certificate",
        ),
        ({"certificate": "localhost.pem", "key": "text.pem"}, "tls_key: {tls}/text.pem holds no key"),
        (
            {"certificate": "localhost.pem", "key": "other-key.pem"},
            "tls_key: {tls}/other-key.pem is not the key of {tls}/localhost.pem",
        ),
        (
            {"certificate": "localhost.pem", "key": "localhost-key.pem", "client_ca": "text.pem"},
            "tls_client_ca: {tls}/text.pem holds no certificate",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named_at_start(
    files: Path,
    flags: dict[str, str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        word for flag, name in flags.items() for word in (f"--tls-{flag.replace('_', '-')}", str(files / name))
    ]
    monkeypatch.setattr(sys, "argv", ["teapot", "--address", "127.0.0.1:0", *arguments])
    assert rpc.main(TeapotSettings, lambda settings: rpc.run(settings, [])) == 2
    error = capsys.readouterr().err
    assert error.startswith("caligo teapot: " + line.format(tls=files)) and error.count("\n") == 1


def test_files_of_the_orchestrators_own_calls_are_named_too(files: Path) -> None:
    with pytest.raises(InvalidArgument, match="services_certificate: needs services_ca"):
        OrchestratorSettings(services_certificate=files / "localhost.pem").services_tls()
    with pytest.raises(InvalidArgument, match=r"services_ca: .*holds no certificate"):
        OrchestratorSettings(services_ca=files / "text.pem").services_tls()


def test_a_token_does_not_travel_in_the_clear(issue: Issue, authority: trustme.CA, tmp_path: Path) -> None:
    for address in ("gpu-box:50050", "192.168.1.7:50050", "dns:///gpu-box:50050"):
        with pytest.raises(InvalidArgument, match="in the clear"):
            rpc.channel(address, token="secret")
        rpc.channel(address, trusting(authority, tmp_path), token="secret").close()
    for address in ("127.0.0.1:50050", "localhost:50050", "[::1]:50050", f"unix:{tmp_path}/s"):
        rpc.channel(address, token="secret").close()
    for wrong in ("two\nlines", "größe"):
        with pytest.raises(InvalidArgument, match="token: must be one line"):
            rpc.channel("127.0.0.1:50050", token=wrong)


def test_grpc_says_why_no_understanding_was_found(issue: Issue, listen: Callable) -> None:
    """A plain client of a TLS server, the commonest mistake, is refused at once and does not hang."""
    address = listen(issue("localhost"))
    with rpc.channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_farm_shows_a_renewed_certificate_when_a_simulator_comes_back(
    issue: Issue, authority: trustme.CA, tmp_path: Path
) -> None:
    """Everybody goes over to another authority; nobody is let in any more with what was shown before."""
    address = f"127.0.0.1:{free_port()}"
    theirs, mine = issue("simulator", ca=True), issue("orchestrator", ca=True)
    replica = Replica(address, room=2)

    def serve() -> rpc.Server:
        server = rpc.Server(address, [rpc.Service(SERVICE, register, replica)], tls=theirs)
        server.start()
        return server

    server = serve()
    farm = ReplicaFarm(address, 20.0, Tls(mine.ca, mine.certificate, mine.key, "simulator"), quiet_seconds=0.05)
    try:
        customer = Customer(farm, rows=5)
        customer.await_rows(5)
        successor = trustme.CA()
        for name in ("simulator", "orchestrator"):
            issue(name, by=successor)
        server.stop(0)
        server = serve()
        with pytest.raises(Unreachable):
            reach(address, trusting(authority, tmp_path, server_name="simulator"))
        customer.submit(np.arange(5, 25))
        customer.await_rows(25)
        customer.assert_complete(25)
    finally:
        farm.close()
        server.stop(0)


def test_the_metrics_endpoint_shows_a_renewed_certificate(issue: Issue, authority: trustme.CA) -> None:
    tls, port = issue("localhost"), free_port()
    settings = TeapotSettings(metrics_address=f"localhost:{port}", tls_certificate=tls.certificate, tls_key=tls.key)

    def scrape(by: trustme.CA) -> str:
        context = ssl.create_default_context()
        by.configure_trust(context)
        with urllib.request.urlopen(f"https://localhost:{port}/metrics", context=context, timeout=10) as answer:
            return answer.read().decode()

    with telemetry.serving(settings):
        assert "caligo_build_info" in scrape(authority)
        successor = trustme.CA()
        issue("localhost", by=successor)
        assert "caligo_build_info" in scrape(successor)
        with pytest.raises(urllib.error.URLError):
            scrape(authority)
