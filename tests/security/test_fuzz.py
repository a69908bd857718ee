"""Every method of every service, asked with bytes that are no message, with messages of any content, and with good
requests of which something was changed. Whatever comes, the answer is an answer or the caller's own mistake, in time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import pickle
import secrets
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
import yaml
from caligo_orchestrator.api import access
from caligo_orchestrator.api.server import service as campaign_service
from caligo_orchestrator.campaigns.resource import Campaigns
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_sampler.server import service as sampler_service
from caligo_simulator.epr.source import TILE
from caligo_simulator.server import SimulatorService
from caligo_simulator.simulation import Simulator
from caligo_surrogate.device import Device
from caligo_surrogate.server import SurrogateServicer
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caligo import rpc, wire
from caligo.layout import CAMPAIGNS_DIRECTORY, FILE_NAME
from caligo.phases import Phase
from caligo.results import ROW_DTYPE, ProtocolOutcome
from caligo.space import PRESETS, Space
from caligo.v1 import campaign_pb2 as campaign
from caligo.v1 import (
    campaign_pb2_grpc,
    sampler_pb2,
    simulator_pb2,
    simulator_pb2_grpc,
    surrogate_pb2,
    surrogate_pb2_grpc,
    types_pb2,
)

SECONDS = 20
"""Within which every call ends; far more than any takes on a busy machine."""
ANSWERS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,  # gRPC's own, of a stream without the one message that is due
}
BUSY = {grpc.StatusCode.RESOURCE_EXHAUSTED}
"""Where the stream of a moment ago has not let go of the simulator yet."""
WAITING = {"WatchCampaign", "StreamResults"}
"""Methods that wait for what is yet to come, of a campaign that has not ended."""
MODEL = "campaigns/model"


# --- what is asked --------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        "campaigns/ended",
        "campaigns/../ended",
        "campaigns/ended/../../lock",
        "campaigns/",
        "../../etc/passwd",
        "ended",
        "x" * 5000,
        "\0",
        "%s{0}$(id)",
        "state=RUNNING",
        "name",
        "priority",
        "spec.active.samples",
        "cliff",
        "lupo2023",
        "statistical",
        "fixed",
        MODEL,
        wire.INPUTS,
        wire.INDEX,
    ]
)
FLOATS = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -1.0, 1.0, 0.5, 1e308, 1e-308])


def integers(low: int, high: int) -> st.SearchStrategy[int]:
    edges = [value for value in (low, -1, 0, 1, 2, 7, 65_536, high) if low <= value <= high]
    return st.integers(low, high) | st.sampled_from(edges)


SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_DOUBLE: FLOATS,
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.TYPE_INT64: integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_ENUM: st.integers(-1, 9),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_STRING: st.text(max_size=30) | WORDS,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=100),
}
SHAPES = st.lists(st.integers(0, 12) | st.sampled_from([2**31, 2**32 - 1]), max_size=4)


@st.composite
def tensors(draw: st.DrawFn) -> types_pb2.Tensor:
    """Tensors that fit in most respects, and may not in some."""
    shape = draw(st.sampled_from([(0, 9), (1, 9), (3, 9), (3,), (3, 2), (3, 10)]))
    dtype, kind = draw(st.sampled_from([("<f4", 1), ("<i8", 2), ("u1", 3)]))
    count = math.prod(shape)
    numbers = draw(st.sampled_from([0, 1, -1, 0.5, 1e38, -1e38, math.nan, math.inf, 2**62])) if dtype == "<f4" else 1
    array = np.full(count, numbers, dtype=np.float64).astype(dtype)
    tensor = types_pb2.Tensor(
        element_type=kind, shape=shape, data=array.tobytes(), schema=draw(st.sampled_from(SCHEMAS))
    )
    match draw(st.sampled_from(["nothing"] * 6 + ["shape", "data", "schema", "type"])):
        case "shape":
            del tensor.shape[:]
            tensor.shape.extend(draw(SHAPES))
        case "data":
            tensor.data = tensor.data[: draw(st.integers(0, 20))]
        case "schema":
            tensor.schema = draw(st.text(max_size=10))
        case "type":
            tensor.element_type = draw(st.integers(-1, 9))
    return tensor


SCHEMAS = [value for name, value in vars(wire).items() if name.isupper() and isinstance(value, str) and "/" in value]


@st.composite
def messages(draw: st.DrawFn, kind: Any, depth: int = 4) -> Message:
    """Messages of a type with any content in any of its fields."""
    if kind is types_pb2.Tensor.DESCRIPTOR and draw(st.booleans()):
        return draw(tensors())
    message = GetMessageClass(kind)()
    for field in kind.fields:
        if draw(st.booleans()):
            put(draw, message, field, depth)
    return message


def put(draw: st.DrawFn, message: Message, field: FieldDescriptor, depth: int) -> None:
    """Any value into one field."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = getattr(message, field.name)
        key = draw(st.sampled_from(["F", "N", "nu"]) | st.text(max_size=5))
        entry[key].CopyFrom(draw(messages(field.message_type.fields_by_name["value"].message_type, depth - 1)))
    elif field.message_type is not None:
        if depth == 0:
            return
        values = [draw(messages(field.message_type, depth - 1))]
        target = getattr(message, field.name)
        target.extend(values) if field.is_repeated else target.CopyFrom(values[0])
    elif field.is_repeated:
        del getattr(message, field.name)[:]
        getattr(message, field.name).extend(draw(st.lists(SCALARS[field.type], max_size=4)))
    else:
        setattr(message, field.name, draw(SCALARS[field.type]))


def change(draw: st.DrawFn, message: Message) -> None:
    """Another value in some field, however deep."""
    field = draw(st.sampled_from(list(message.DESCRIPTOR.fields)))
    is_there = not field.is_repeated and field.message_type is not None and message.HasField(field.name)
    if is_there and draw(st.sampled_from([True] * 3 + [False])):
        return change(draw, getattr(message, field.name)) if field.message_type.fields else None
    if draw(st.sampled_from([False] * 4 + [True])):
        return message.ClearField(field.name)
    return put(draw, message, field, 3)


@st.composite
def requests(draw: st.DrawFn, method: MethodDescriptor, good: Sequence[Message]) -> list[bytes]:
    """What one call sends: one message, or several where the method takes a stream."""
    if not method.client_streaming:
        return [draw(request_bytes(method.input_type, [draw(st.sampled_from(good))]))]
    stream = [draw(request_bytes(method.input_type, [message])) for message in good]
    return stream[: draw(st.integers(0, len(stream)))] if draw(st.sampled_from([False] * 5 + [True])) else stream


@st.composite
def request_bytes(draw: st.DrawFn, kind: Any, good: Sequence[Message]) -> bytes:
    match draw(st.sampled_from(["change"] * 7 + ["flip", "any", "bytes"])):
        case "bytes":
            return draw(st.binary(max_size=60))
        case "any":
            return draw(messages(kind)).SerializeToString()
        case "flip":
            data = bytearray(good[0].SerializeToString())
            for _ in range(draw(st.integers(1, 3)) if data else 0):
                data[draw(st.integers(0, min(len(data), 400) - 1))] = draw(st.integers(0, 255))
            return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)
        case _:
            message = GetMessageClass(kind)()
            message.CopyFrom(good[0])
            for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3])) if kind.fields else 0):
                change(draw, message)
            return message.SerializeToString()


# --- who is asked ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Target:
    """A service that listens in this process, and good requests of each of its methods."""

    service: Any
    channel: grpc.Channel
    good: dict[str, list[Message]]
    also: set[grpc.StatusCode] = dataclasses.field(default_factory=set)
    """Further statuses that are answers."""

    def ask(self, method: MethodDescriptor, stream: list[bytes]) -> grpc.StatusCode:
        """Send a call and take all that comes back."""
        path = f"/{self.service.full_name}/{method.name}"
        waits = method.name in WAITING
        seconds = 1 if waits else SECONDS
        try:
            if method.client_streaming and method.server_streaming:
                list(self.channel.stream_stream(path)(iter(stream), timeout=seconds))
            elif method.client_streaming:
                self.channel.stream_unary(path)(iter(stream), timeout=seconds)
            elif method.server_streaming:
                list(self.channel.unary_stream(path)(stream[0], timeout=seconds))
            else:
                self.channel.unary_unary(path)(stream[0], timeout=seconds)
        except grpc.RpcError as error:
            if waits and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return error.code()
            assert error.code() in ANSWERS | self.also, f"{method.name}: {error.code()}: {error.details()}"
            return error.code()
        return grpc.StatusCode.OK


INPUTS = Space(PRESETS["cliff"]).from_unit(np.random.default_rng(1).random((24, 9), dtype=np.float32).round(2))
INPUTS[:, 8] = INPUTS[:, 8].round()


@contextlib.contextmanager
def listening(address: str, *services: rpc.Service, **options: Any) -> Iterator[grpc.Channel]:
    server = rpc.Server(address, services, **options)
    server.start()
    with rpc.channel(address) as channel:
        yield channel
    server.stop(0)


@contextlib.contextmanager
def orchestrator(folder: Path) -> Iterator[Target]:
    """With a campaign that waits and one that has ended, with rows and something to download."""
    own = OrchestratorSettings(
        address=f"unix:{folder}/o",
        data_directory=folder / "data",
        sampler=f"unix:{folder}/nobody",
        surrogate=f"unix:{folder}/nobody",
        simulator=f"unix:{folder}/nobody",
        client_active_campaigns=50,
    )
    with contextlib.ExitStack() as stack:
        campaigns = stack.enter_context(contextlib.closing(Campaigns(own)))
        campaigns.start()
        guard = stack.enter_context(access.guard(own))
        options = {"interceptors": [guard], "threads": own.threads, "options": own.server_options}
        channel = stack.enter_context(listening(own.address, campaign_service(campaigns), **options))
        stub = campaign_pb2_grpc.CampaignServiceStub(channel)
        for name in ("ended", "queued"):
            stub.CreateCampaign(campaign.CreateCampaignRequest(spec=campaign.CampaignSpec(name=name)))
        stub.CancelCampaign(campaign.CancelCampaignRequest(name="campaigns/ended"))
        directory = own.data_directory / CAMPAIGNS_DIRECTORY / "ended"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / FILE_NAME).write_bytes(bytes(range(256)) * 40)
        ended, spec = "campaigns/ended", campaign.CampaignSpec(name="f")
        spec.space.bounds["F"].CopyFrom(types_pb2.Bounds(low=0.9, high=0.95))
        good = {
            "CreateCampaign": [
                campaign.CreateCampaignRequest(spec=spec, request_id="r", validate_only=True),
                campaign.CreateCampaignRequest(spec=campaign.CampaignSpec(name="ended"), priority=7),
            ],
            "UpdateCampaign": [
                campaign.UpdateCampaignRequest(
                    campaign=campaign.Campaign(name="campaigns/queued", priority=5), update_mask={"paths": ["priority"]}
                )
            ],
            "ListCampaigns": [campaign.ListCampaignsRequest(page_size=2, filter="state=CANCELLED")],
            "StreamResults": [campaign.StreamResultsRequest(name=ended, phase=1, follow=True)],
            "DownloadDataset": [campaign.DownloadDatasetRequest(name=ended, offset=100, length=5000)],
            "PredictCampaign": [campaign.PredictCampaignRequest(name=ended, inputs=wire.encode(INPUTS, wire.INPUTS))],
            "WatchCampaign": [campaign.WatchCampaignRequest(name=ended, after_sequence=1)],
            "DeleteCampaign": [campaign.DeleteCampaignRequest(name="campaigns/queued")],
        }
        for verb in ("Get", "Pause", "Resume", "Cancel"):
            good[f"{verb}Campaign"] = [getattr(campaign, f"{verb}CampaignRequest")(name=ended)]
        service = campaign.DESCRIPTOR.services_by_name["CampaignService"]
        yield Target(service, channel, good, {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})


@contextlib.contextmanager
def sampler(folder: Path) -> Iterator[Target]:
    with listening(f"unix:{folder}/p", sampler_service()) as channel:
        inputs = wire.encode(INPUTS, wire.INPUTS)
        good = {
            "StreamDesign": [sampler_pb2.StreamDesignRequest(seed=1, size=1000, start=10, count=20, chunk_rows=7)],
            "CheckFeasibility": [sampler_pb2.CheckFeasibilityRequest(inputs=inputs)] * 2,
        }
        yield Target(sampler_pb2.DESCRIPTOR.services_by_name["SamplerService"], channel, good)


@contextlib.contextmanager
def simulator(folder: Path) -> Iterator[Target]:
    register = simulator_pb2_grpc.add_SimulatorServiceServicer_to_server
    name = f"fuzz-{secrets.token_hex(4)}"
    with Simulator(workers=1, segment_pairs=TILE, namespace=name) as running:
        service = rpc.Service("caligo.v1.SimulatorService", register, SimulatorService(running))
        with listening(f"unix:{folder}/m", service) as channel:
            setup = simulator_pb2.SimulateSetup(campaign=MODEL, seed=1, phase=1)
            setup.protocol.time_limit_seconds = 0.2
            setup.protocol.max_decoded_frames = 1
            rows = INPUTS[:2].copy()
            rows[:, 7] = 4.0  # 10^4 pairs
            good: dict[str, list[Message]] = {
                "Simulate": [
                    simulator_pb2.SimulateRequest(setup=setup),
                    simulator_pb2.SimulateRequest(rows=wire.encode_design(np.arange(2), rows)),
                    simulator_pb2.SimulateRequest(withdrawn=wire.encode(np.arange(1), wire.INDEX)),
                ],
                "GetCapacity": [simulator_pb2.GetCapacityRequest()],
            }
            yield Target(simulator_pb2.DESCRIPTOR.services_by_name["SimulatorService"], channel, good, BUSY)
        assert running.arena.free_slots() == running.arena.slots


@contextlib.contextmanager
def surrogate(folder: Path) -> Iterator[Target]:
    register = surrogate_pb2_grpc.add_SurrogateServiceServicer_to_server
    service = rpc.Service("caligo.v1.SurrogateService", register, SurrogateServicer(Device("cpu"), memory_budget=2**28))
    with listening(f"unix:{folder}/s", service) as channel:
        stub = surrogate_pb2_grpc.SurrogateServiceStub(channel)
        make = surrogate_pb2.CreateModelRequest(campaign=MODEL, seed=1)
        make.surrogate.training_steps = 2
        make.surrogate.solver = "cholesky"  # which the index of a row would decide; the other is slow
        stub.CreateModel(make)
        rows = np.zeros(len(INPUTS), dtype=ROW_DTYPE)
        rows["index"], rows["inputs"] = np.arange(len(rows)), INPUTS
        rows["metrics"] = np.linspace(-0.5, 0.5, len(rows), dtype=np.float32)[:, None]
        rows["outcome"] = np.where(rows["metrics"][:, 1] > 0, ProtocolOutcome.SUCCESS, ProtocolOutcome.FAILURE_SECURITY)
        observe = surrogate_pb2.ObserveRequest(
            campaign=MODEL, phase=wire.encode_phase(Phase.LHS), rows=wire.encode_rows(rows)
        )
        stub.Observe(iter([observe]))
        *_, last = stub.FitModel(surrogate_pb2.FitModelRequest(campaign=MODEL))
        inputs = wire.encode(INPUTS, wire.INPUTS)
        good = {
            "CreateModel": [make, surrogate_pb2.CreateModelRequest(campaign="campaigns/other", seed=2)],
            "Observe": [observe, observe],
            "FitModel": [surrogate_pb2.FitModelRequest(campaign=MODEL, holdout_fraction=0.2, folds=2)],
            "ProposeBatch": [surrogate_pb2.ProposeBatchRequest(campaign=MODEL, batch=1, size=2, pending=inputs)],
            "ScreenRows": [
                surrogate_pb2.ScreenRowsRequest(campaign=MODEL, rows=wire.encode_design(np.arange(len(INPUTS)), INPUTS))
            ],
            "PredictRows": [surrogate_pb2.PredictRowsRequest(campaign=MODEL, inputs=inputs)],
            "ImportModel": [
                surrogate_pb2.ImportModelRequest(
                    campaign=MODEL, tensors=last.summary.tensors, metadata=last.summary.metadata
                )
            ],
            "DeleteModel": [surrogate_pb2.DeleteModelRequest(campaign="campaigns/other")],
        }
        for verb in ("GetModel", "ExportModel", "GetBoundary", "ExplainModel"):
            good[verb] = [getattr(surrogate_pb2, f"{verb}Request")(campaign=MODEL)]
        yield Target(surrogate_pb2.DESCRIPTOR.services_by_name["SurrogateService"], channel, good)


TARGETS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Target]]] = {
    "orchestrator": orchestrator,
    "sampler": sampler,
    "simulator": simulator,
    "surrogate": surrogate,
}


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with TARGETS[request.param](tmp_path_factory.mktemp(request.param)) as made:
        yield made


def fuzz(target: Target, examples: int) -> None:
    methods = list(target.service.methods)
    assert {method.name for method in methods} == set(target.good)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        method = data.draw(st.sampled_from(methods), label="method")
        target.ask(method, data.draw(requests(method, target.good[method.name]), label="request"))

    ask()
    # And it works as before: good requests are answered well, but for what was deleted or has ended.
    for method in methods:
        target.ask(method, [message.SerializeToString() for message in target.good[method.name]])


def test_no_request_breaks_a_service(target: Target) -> None:
    fuzz(target, 150)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_request_breaks_a_service_long(target: Target) -> None:
    fuzz(target, 5000)


# --- what would run -------------------------------------------------------------------------------------------------


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.file, "w")


def armed(file: Path) -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    """Contents that make a file of this name, each with what must not be done to it."""
    array, tensor = io.BytesIO(), io.BytesIO()
    np.save(array, np.array([Bomb(file)], dtype=object))
    torch.save(Bomb(file), tensor)
    bomb = Bomb(file)
    return {
        "pickle": (pickle.dumps(bomb), pickle.loads),
        "pickle as text": (pickle.dumps(bomb, protocol=0), pickle.loads),
        "array": (array.getvalue(), lambda content: np.load(io.BytesIO(content), allow_pickle=True)),
        "tensor": (tensor.getvalue(), lambda content: torch.load(io.BytesIO(content), weights_only=False)),
        "expression": (f"open({str(file)!r}, 'w')".encode(), lambda content: eval(content.decode())),
        "command": (f"touch {file}".encode(), lambda content: subprocess.run(content.decode(), shell=True)),
        "substitution": (f"$(touch {file})".encode(), lambda content: subprocess.run(b": " + content, shell=True)),
        "YAML": (
            f"!!python/object/apply:builtins.open [{file}, w]".encode(),
            lambda content: yaml.unsafe_load(content.decode()),
        ),
    }


def with_content(message: Message, content: bytes, depth: int = 4) -> Iterator[Message]:
    """The message again and again, each time with the content in another of its fields, however deep."""
    for field in message.DESCRIPTOR.fields:
        other = type(message)()
        other.CopyFrom(message)
        if field.message_type is not None:
            if depth and not field.is_repeated:
                for part in with_content(getattr(message, field.name), content, depth - 1):
                    getattr(other, field.name).CopyFrom(part)
                    yield other
        elif field.type in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING):
            value = content if field.type == FieldDescriptor.TYPE_BYTES else content.decode(errors="replace")
            getattr(other, field.name).append(value) if field.is_repeated else setattr(other, field.name, value)
            yield other


def test_nothing_in_a_request_is_unpickled_evaluated_or_run(target: Target, tmp_path: Path) -> None:
    """Every text and every bytes of every method's request, with contents that tell where it happens."""
    file = tmp_path / "made"
    for name, (content, act) in armed(file).items():
        act(content)
        assert file.exists(), name  # it would be seen
        file.unlink()
        for method in target.service.methods:
            good = target.good[method.name]
            for place, message in enumerate(good):
                for changed in with_content(message, content):
                    stream = [*good[:place], changed, *good[place + 1 :]] if method.client_streaming else [changed]
                    target.ask(method, [each.SerializeToString() for each in stream])
                    assert not file.exists(), (method.name, name, changed)
