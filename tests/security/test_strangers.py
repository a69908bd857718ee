"""What somebody holds who is nobody: every method that a server registers, more calls than there are threads.

A new method is tried as soon as it is registered.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from caligo_orchestrator.api import access
from caligo_orchestrator.api.server import service as campaign_service
from caligo_orchestrator.campaigns.resource import Campaigns
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_sampler.server import service as sampler_service
from caligo_simulator.epr.source import TILE
from caligo_simulator.server import SimulatorService
from caligo_simulator.server import service as simulator_service
from caligo_simulator.simulation import Simulator
from caligo_surrogate.device import Device
from caligo_surrogate.server import SurrogateServicer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from caligo import rpc, wire
from caligo.space import PRESETS, Space
from caligo.tokens import Role, Tokens
from caligo.v1 import (
    campaign_pb2,
    campaign_pb2_grpc,
    sampler_pb2,
    sampler_pb2_grpc,
    simulator_pb2,
    simulator_pb2_grpc,
    surrogate_pb2,
    surrogate_pb2_grpc,
)

SECONDS = 60.0
"""For an honest answer: it takes milliseconds, on a machine that does nothing else."""
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
WATCH = "/grpc.health.v1.Health/Watch"
CHECK = "/caligo.v1.SamplerService/CheckFeasibility"
DESIGN = "/caligo.v1.SamplerService/StreamDesign"


class Came(grpc.ServerInterceptor):
    """Counts calls by method, as they come."""

    def __init__(self) -> None:
        self.calls: collections.Counter[str] = collections.Counter()

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        self.calls[details.method] += 1
        return continuation(details)


@dataclasses.dataclass
class Target:
    """A server, and what its honest clients ask."""

    server: rpc.Server
    threads: int
    ask: Callable[[], object]
    may_hold: int
    """Calls that strangers may hold of one method."""
    came: Came

    def methods(self) -> list[str]:
        return sorted(self.server._server._state.registered_method_handlers)  # gRPC has no other list

    def held(self) -> int:
        """Calls that have not ended; a caller who does not read is not told."""
        return len(self.server._server._state.rpc_states)


@contextlib.contextmanager
def listening(
    services: list[rpc.Service], address: str, ask: Callable[[grpc.Channel], object], **options: Any
) -> Iterator[Target]:
    came = Came()
    options["interceptors"] = [*options.get("interceptors", ()), came]
    server = rpc.Server(address, services, **options)
    server.start()
    try:
        with rpc.channel(address) as channel:
            threads = options.get("threads", rpc.THREADS)
            yield Target(server, threads, lambda: ask(channel), options.get("places") or threads // 2, came)
    finally:
        server.stop(0)


@contextlib.contextmanager
def orchestrator(folder: Path, *, with_token: bool = True, **settings: Any) -> Iterator[Target]:
    """As it is by default; honest clients have a token, or have none like the others."""
    own = OrchestratorSettings(address=f"unix:{folder}/o", data_directory=folder / "data", **settings)
    with contextlib.ExitStack() as stack:
        campaigns = stack.enter_context(contextlib.closing(Campaigns(own)))
        guard = stack.enter_context(access.guard(own))
        with Tokens(own.data_directory) as tokens:
            token = tokens.create("alice", Role.SUBMIT) if with_token else ""
        stub = campaign_pb2_grpc.CampaignServiceStub(stack.enter_context(rpc.channel(own.address, token=token)))

        def ask(channel: grpc.Channel) -> None:
            stub.ListCampaigns(campaign_pb2.ListCampaignsRequest(), timeout=SECONDS)
            events = stub.WatchCampaign(campaign_pb2.WatchCampaignRequest(name=name), timeout=SECONDS)
            next(events)
            events.cancel()

        options = {"interceptors": [guard], "threads": own.threads, "places": own.places}
        target = stack.enter_context(
            listening([campaign_service(campaigns)], own.address, ask, stall_seconds=own.stall_seconds, **options)
        )
        spec = campaign_pb2.CampaignSpec(name="cliff")
        name = stub.CreateCampaign(campaign_pb2.CreateCampaignRequest(spec=spec), timeout=SECONDS).campaign.name
        target.may_hold = max(own.client_streams, own.client_calls)
        yield target


@contextlib.contextmanager
def closed(folder: Path, **settings: Any) -> Iterator[Target]:
    """An orchestrator that asks for tokens."""
    with orchestrator(folder, require_token=True, **settings) as target:
        yield target


@contextlib.contextmanager
def tokenless(folder: Path, **settings: Any) -> Iterator[Target]:
    with orchestrator(folder, with_token=False, **settings) as target:
        yield target


@contextlib.contextmanager
def sampler(folder: Path, **options: Any) -> Iterator[Target]:
    def ask(channel: grpc.Channel) -> None:
        stub = sampler_pb2_grpc.SamplerServiceStub(channel)
        list(stub.StreamDesign(sampler_pb2.StreamDesignRequest(size=10, count=10), timeout=SECONDS))

    with listening([sampler_service()], f"unix:{folder}/p", ask, **options) as target:
        yield target


@contextlib.contextmanager
def simulator(folder: Path, **options: Any) -> Iterator[Target]:
    def ask(channel: grpc.Channel) -> None:
        stub = simulator_pb2_grpc.SimulatorServiceStub(channel)
        stub.GetCapacity(simulator_pb2.GetCapacityRequest(), timeout=SECONDS)

    with Simulator(workers=1, segment_pairs=TILE, namespace=f"held-{secrets.token_hex(4)}") as running:
        service = simulator_service(running)
        if "stall_seconds" in options:
            service = dataclasses.replace(service, servicer=SimulatorService(running, options["stall_seconds"]))
        with listening([service], f"unix:{folder}/m", ask, **options) as target:
            yield target


@contextlib.contextmanager
def surrogate(folder: Path, **options: Any) -> Iterator[Target]:
    def ask(channel: grpc.Channel) -> None:
        stub = surrogate_pb2_grpc.SurrogateServiceStub(channel)
        with contextlib.suppress(grpc.RpcError):  # there is no model yet
            stub.DeleteModel(surrogate_pb2.DeleteModelRequest(campaign="campaigns/a"), timeout=SECONDS)
        stub.CreateModel(surrogate_pb2.CreateModelRequest(campaign="campaigns/a", seed=1), timeout=SECONDS)

    register = surrogate_pb2_grpc.add_SurrogateServiceServicer_to_server
    service = rpc.Service("caligo.v1.SurrogateService", register, SurrogateServicer(Device("cpu"), memory_budget=2**28))
    with listening([service], f"unix:{folder}/s", ask, **options) as target:
        yield target


TARGETS: dict[str, Callable[..., contextlib.AbstractContextManager[Target]]] = {
    "orchestrator": orchestrator,
    "orchestrator with tokens": closed,
    "orchestrator without tokens": tokenless,
    "sampler": sampler,
    "simulator": simulator,
    "surrogate": surrogate,
}


@pytest.fixture(params=TARGETS)
def service(request: pytest.FixtureRequest) -> Callable[..., contextlib.AbstractContextManager[Target]]:
    return TARGETS[request.param]


@contextlib.contextmanager
def holding(target: Target, method: str, count: int, messages: tuple[bytes, ...] = ()) -> Iterator[list[Any]]:
    """Calls of one method whose messages stop coming, and whose answers nobody reads."""
    gone = threading.Event()

    def stream() -> Iterator[bytes]:
        yield from messages
        gone.wait()

    with rpc.channel(target.server.address) as channel:
        ask = channel.stream_stream(method)
        calls = [ask(stream()) for _ in range(count)]
        try:
            yield calls
        finally:
            for call in calls:
                call.cancel()
            gone.set()


def serve(target: Target) -> None:
    """Honest clients are answered."""
    target.ask()
    with rpc.channel(target.server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        assert health.Check(request, timeout=SECONDS).status == health_pb2.HealthCheckResponse.SERVING
        watching = health.Watch(request, timeout=SECONDS)
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        watching.cancel()


def settle(target: Target, method: str, calls: int, most: int) -> None:
    """Come to the point where all calls have come and no more are held than may be; the honest are answered then."""
    while target.came.calls[method] < calls or target.held() > most:  # the test's own timeout ends it
        try:
            serve(target)
        except grpc.RpcError as error:  # asked again at once where calls come by the hundred
            assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED), error
        time.sleep(0.01)
    serve(target)


def test_calls_without_a_message_hold_up_nobody(service: Any, tmp_path: Path) -> None:
    with service(tmp_path) as target:
        assert {"/grpc.health.v1.Health/Check", WATCH, REFLECT} < set(target.methods())
        for method in target.methods():
            count = target.threads + 10
            target.came.calls.clear()
            with holding(target, method, count):
                settle(target, method, count, target.may_hold)


def test_a_call_without_a_message_ends(service: Any, tmp_path: Path) -> None:
    with service(tmp_path, stall_seconds=0.2) as target, contextlib.ExitStack() as stack:
        held = {method: stack.enter_context(holding(target, method, 1)) for method in target.methods()}
        for method, (call,) in held.items():
            assert call.code() is not None, method  # waits for the end; there is no deadline


SYMBOL = reflection_pb2.ServerReflectionRequest(file_containing_symbol="caligo.v1.CampaignSpec").SerializeToString()
UNREAD: dict[str, tuple[bytes, ...]] = {
    REFLECT: (SYMBOL,) * 30,  # 64 KiB go out without being read
    DESIGN: (sampler_pb2.StreamDesignRequest(size=2**20, count=2**15, chunk_rows=8192).SerializeToString(),),
}
"""Messages with answers that fill what HTTP/2 takes for a caller who does not read."""


@pytest.mark.parametrize("method", UNREAD)
def test_answers_that_nobody_reads_hold_up_nobody(method: str, tmp_path: Path) -> None:
    with sampler(tmp_path) as target, holding(target, method, 80, UNREAD[method]):
        settle(target, method, 80, target.may_hold)


@pytest.mark.parametrize("method", [REFLECT, CHECK])
def test_streams_that_fall_silent_hold_up_nobody(method: str, tmp_path: Path) -> None:
    rows = wire.encode(Space(PRESETS["cliff"]).from_unit(np.full((1, 9), 0.5)), wire.INPUTS)
    message = {REFLECT: SYMBOL, CHECK: sampler_pb2.CheckFeasibilityRequest(inputs=rows).SerializeToString()}[method]
    with sampler(tmp_path) as target, holding(target, method, 80, (message,)):
        settle(target, method, 80, target.may_hold)


def test_watchers_of_health_are_counted(tmp_path: Path) -> None:
    """They take no thread; the oldest gives way."""
    message = health_pb2.HealthCheckRequest().SerializeToString()
    with sampler(tmp_path) as target, holding(target, WATCH, 300, (message,)) as calls:
        settle(target, WATCH, 300, 256)
        assert next(calls[-1]) and calls[-1].is_active()
