"""Servers and channels: typed errors there and back, health, reflection, who may listen where."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from caligo import rpc
from caligo.errors import (
    BY_STATUS,
    CaligoError,
    FieldViolation,
    InternalError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unreachable,
)
from caligo.settings import ServiceSettings
from caligo.spec import CampaignSpec
from caligo.v1 import campaign_pb2 as pb
from caligo.v1 import campaign_pb2_grpc

NAME = "caligo.v1.CampaignService"


class Raising(campaign_pb2_grpc.CampaignServiceServicer):
    """Raises what it is told to, from a unary method and in the middle of a stream."""

    error: Exception

    def GetCampaign(self, request: pb.GetCampaignRequest, context: grpc.ServicerContext) -> pb.GetCampaignResponse:
        raise self.error

    def WatchCampaign(
        self, request: pb.WatchCampaignRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchCampaignResponse]:
        yield pb.WatchCampaignResponse(sequence=1)
        raise self.error


@pytest.fixture
def servicer() -> Raising:
    return Raising()


@pytest.fixture
def server(servicer: Raising, tmp_path: Path) -> Iterator[rpc.Server]:
    register = campaign_pb2_grpc.add_CampaignServiceServicer_to_server
    made = rpc.Server(f"unix:{tmp_path}/s", [rpc.Service(NAME, register, servicer)])
    made.start()
    yield made
    made.stop(0)


def call(address: str) -> None:
    with rpc.channel(address) as channel, rpc.calling(address):
        campaign_pb2_grpc.CampaignServiceStub(channel).GetCampaign(pb.GetCampaignRequest(), timeout=10)


def stream(address: str) -> None:
    with rpc.channel(address) as channel, rpc.calling(address):
        messages = campaign_pb2_grpc.CampaignServiceStub(channel).WatchCampaign(pb.WatchCampaignRequest(), timeout=10)
        assert next(messages).sequence == 1
        next(messages)


@pytest.mark.parametrize("ask", [call, stream])
@pytest.mark.parametrize("kind", [k for k in BY_STATUS.values() if k is not Unreachable])
def test_an_error_arrives_as_what_it_was(server: rpc.Server, servicer: Raising, kind: type[CaligoError], ask) -> None:  # type: ignore[no-untyped-def]
    servicer.error = kind("campaigns/ü: what happened")
    with pytest.raises(CaligoError) as caught:
        ask(server.address)
    assert type(caught.value) is kind
    assert str(caught.value) == "campaigns/ü: what happened"


@pytest.mark.parametrize("ask", [call, stream])
def test_violations_arrive_field_by_field(server: rpc.Server, servicer: Raising, ask) -> None:  # type: ignore[no-untyped-def]
    servicer.error = InvalidArgument("a.b", "0 to 1", FieldViolation("c", "anything but 7"))
    with pytest.raises(InvalidArgument) as caught:
        ask(server.address)
    assert caught.value.violations == servicer.error.violations


def test_a_validation_error_names_its_field(server: rpc.Server, servicer: Raising) -> None:
    try:
        CampaignSpec(seed=-1)
    except ValueError as error:
        servicer.error = error
    with pytest.raises(InvalidArgument, match="seed: must be at least 0"):
        call(server.address)


@pytest.mark.parametrize("ask", [call, stream])
def test_a_fault_says_nothing_of_the_inside(server: rpc.Server, servicer: Raising, ask) -> None:  # type: ignore[no-untyped-def]
    servicer.error = RuntimeError("secret path")
    with pytest.raises(InternalError, match="the service's log says why") as caught:
        ask(server.address)
    assert "secret" not in str(caught.value)


def test_health_and_reflection(server: rpc.Server) -> None:
    with rpc.channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", NAME):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="caligo.v1.Other"), timeout=10)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        reflected = ProtoReflectionDescriptorDatabase(channel)
        assert NAME in reflected.get_services()
        assert "grpc.health.v1.Health" in reflected.get_services()
        assert reflected.FindFileContainingSymbol(NAME).name == "caligo/v1/campaign.proto"


def test_health_watchers_that_leave_do_not_hold_up_the_server(server: rpc.Server) -> None:
    """The library's own servicer hung here within a second, and `stop` with it."""

    def come_and_go(health: health_pb2_grpc.HealthStub) -> None:
        for _ in range(25):
            watchers = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(8)]
            for watcher in watchers:
                next(watcher)
                watcher.cancel()

    with rpc.channel(server.address) as channel, futures.ThreadPoolExecutor(4) as pool:
        health = health_pb2_grpc.HealthStub(channel)
        leaving = [pool.submit(come_and_go, health) for _ in range(4)]
        while not all(one.done() for one in leaving):
            server.refuse()
        for one in leaving:
            one.result()
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_nobody_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="nobody answers"):
        call(f"unix:{tmp_path}/nobody")
    with rpc.channel(f"unix:{tmp_path}/nobody") as channel, pytest.raises(Unreachable):
        rpc.wait_ready(channel, "there", 0.1)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.org:0"])
def test_an_open_address_must_be_asked_for(address: str) -> None:
    with pytest.raises(InvalidArgument, match="insecure"):
        rpc.Server(address, [])
    if address.startswith("0.0.0.0"):
        rpc.Server(address, [], insecure=True)


def test_a_port_in_use_is_an_error() -> None:
    first = rpc.Server("127.0.0.1:0", [])
    assert int(first.address.rpartition(":")[2]) > 0
    with pytest.raises(InvalidArgument, match="cannot be bound"):
        rpc.Server(first.address, [])


class KettleSettings(ServiceSettings, section="kettle"):
    """A service that is only this."""


@pytest.fixture
def own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("signals", [1, 70_000])  # a pipe holds 65,536 bytes
def test_signals_end_a_service_even_before_it_waits(tmp_path: Path, signals: int) -> None:
    def interrupt() -> None:
        for number in (signal.SIGTERM, signal.SIGINT)[:signals]:
            for _ in range((signals + 1) // 2):
                os.kill(os.getpid(), number)

    stopped: list[bool] = []
    rpc.run(KettleSettings(address=f"unix:{tmp_path}/s"), [], on_start=interrupt, on_stop=lambda: stopped.append(True))
    assert stopped == [True]


@pytest.mark.usefixtures("own_signals")
def test_a_service_stops_even_where_its_clean_up_fails(tmp_path: Path, servicer: Raising) -> None:
    def fail() -> None:
        raise RuntimeError("clean-up")

    address = f"unix:{tmp_path}/s"
    register = campaign_pb2_grpc.add_CampaignServiceServicer_to_server
    # `caught` keeps the frame, and with it the server, alive.
    with pytest.raises(RuntimeError, match="clean-up") as caught:
        rpc.run(
            KettleSettings(address=address),
            [rpc.Service(NAME, register, servicer)],
            on_start=lambda: os.kill(os.getpid(), signal.SIGTERM),
            on_stop=fail,
        )
    servicer.error = InvalidArgument("a", "b")
    with pytest.raises(Unreachable):
        call(address)
    assert caught.traceback


def test_an_error_that_quotes_too_much_arrives_all_the_same(server: rpc.Server, servicer: Raising) -> None:
    for text in ("x" * 100_000, "€" * 100_000):
        servicer.error = NotFound(text)
        with pytest.raises(NotFound, match=text[:100]):
            call(server.address)
        servicer.error = InvalidArgument(text, text, *(FieldViolation(text, text) for _ in range(100)))
        with pytest.raises(InvalidArgument, match=text[:100]):
            call(server.address)
    servicer.error = InvalidArgument("a", "b", *(FieldViolation(f"field{i}", "what is allowed") for i in range(1000)))
    with pytest.raises(InvalidArgument) as caught:
        call(server.address)
    assert caught.value.violations[1] == FieldViolation("field0", "what is allowed")


@pytest.mark.parametrize("limits", [{}, {"limit": "max_streams", "value": 7, "retry_after_seconds": 1.5}])
def test_a_limit_arrives_with_its_value(server: rpc.Server, servicer: Raising, limits: dict[str, Any]) -> None:
    servicer.error = ResourceExhausted("too much", **limits)
    with pytest.raises(ResourceExhausted, match="too much") as caught:
        call(server.address)
    got = {name: getattr(caught.value, name) for name in ("limit", "value", "retry_after_seconds")}
    assert got == {"limit": "", "value": None, "retry_after_seconds": None, **limits}


def test_bytes_that_are_no_message_are_the_callers_mistake(server: rpc.Server) -> None:
    with rpc.channel(server.address) as channel, pytest.raises(InvalidArgument, match="request"), rpc.calling("here"):
        channel.unary_unary(f"/{NAME}/GetCampaign")(b"\xff\xff", timeout=10)
