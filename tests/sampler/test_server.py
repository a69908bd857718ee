"""The contract of SamplerService over a real server on a Unix socket."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from caligo_sampler.design import LHSSampler
from caligo_sampler.feasibility import check_feasibility
from caligo_sampler.server import CHUNK_ROWS, MAX_CHUNK_ROWS, service
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from caligo import rpc, wire
from caligo.errors import InvalidArgument
from caligo.space import PRESETS, Space
from caligo.spec import PhysicsSpec
from caligo.v1 import sampler_pb2, sampler_pb2_grpc, types_pb2


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own paths can be too long for a socket
        server = rpc.Server(f"unix:{Path(directory) / 'sampler.sock'}", [service()])
        server.start()
        with rpc.channel(server.address) as channel:
            yield channel
        server.stop(0)


@pytest.fixture
def stub(channel: grpc.Channel) -> sampler_pb2_grpc.SamplerServiceStub:
    return sampler_pb2_grpc.SamplerServiceStub(channel)


def violations(call: Iterator[object]) -> list[str]:
    """Fields named in the google.rpc.BadRequest of a refused stream."""
    with pytest.raises(InvalidArgument) as error, rpc.calling("sampler"):
        list(call)
    return [v.field for v in error.value.violations]


def test_health_and_reflection(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    answer = health.Check(health_pb2.HealthCheckRequest(service="caligo.v1.SamplerService"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (listing,) = reflection.ServerReflectionInfo(iter([request]))
    assert "caligo.v1.SamplerService" in {s.name for s in listing.list_services_response.service}


@pytest.mark.parametrize(("chunk_rows", "first"), [(0, CHUNK_ROWS), (1000, 1000), (MAX_CHUNK_ROWS, 20_000)])
def test_stream_design(stub: sampler_pb2_grpc.SamplerServiceStub, chunk_rows: int, first: int) -> None:
    request = sampler_pb2.StreamDesignRequest(seed=9, size=10**6, start=500, count=20_000, chunk_rows=chunk_rows)
    answers = list(stub.StreamDesign(request))
    parts = [wire.decode_design(answer.rows) for answer in answers]
    assert len(parts[0][0]) == first
    index = np.concatenate([part[0] for part in parts])
    inputs = np.concatenate([part[1] for part in parts])
    margins = np.concatenate([wire.decode(a.feasibility_margin, wire.FEASIBILITY, -1) for a in answers])
    expected_index, expected = LHSSampler(Space(PRESETS["cliff"]), 9, 10**6).rows(500, 20_000)
    assert np.array_equal(index, expected_index)
    assert np.array_equal(inputs, expected)
    assert np.array_equal(margins, check_feasibility(expected, PhysicsSpec()))


def test_no_64_bit_float_on_the_wire(stub: sampler_pb2_grpc.SamplerServiceStub) -> None:
    (answer,) = stub.StreamDesign(sampler_pb2.StreamDesignRequest(size=10, count=10))
    assert answer.rows.inputs.element_type == types_pb2.ELEMENT_TYPE_FLOAT32
    assert answer.feasibility_margin.element_type == types_pb2.ELEMENT_TYPE_FLOAT32
    assert len(answer.rows.inputs.data) == 10 * 9 * 4


def test_space_and_physics_are_heeded(stub: sampler_pb2_grpc.SamplerServiceStub) -> None:
    request = sampler_pb2.StreamDesignRequest(size=100, count=100)
    request.space.preset = "table1"
    request.space.blind_fraction = 1.0
    request.space.bounds["r"].low, request.space.bounds["r"].high = 0.9, 0.9
    request.physics.claim = "stw09"
    request.physics.memory_model = "fixed"
    (answer,) = stub.StreamDesign(request)
    _, inputs = wire.decode_design(answer.rows)
    assert (inputs[:, 0] == np.float32(0.9)).all()
    assert (inputs[:, 8] == 1.0).all()
    expected = check_feasibility(inputs, PhysicsSpec(claim="stw09", memory_model="fixed"))
    assert np.array_equal(wire.decode(answer.feasibility_margin, wire.FEASIBILITY, -1), expected)


def test_an_empty_slice_is_an_empty_stream(stub: sampler_pb2_grpc.SamplerServiceStub) -> None:
    assert list(stub.StreamDesign(sampler_pb2.StreamDesignRequest(size=10, start=10))) == []


def test_a_stream_of_10_to_the_12_rows_starts_at_once_and_can_be_cancelled(
    channel: grpc.Channel, stub: sampler_pb2_grpc.SamplerServiceStub
) -> None:
    call = stub.StreamDesign(sampler_pb2.StreamDesignRequest(size=2**40, count=10**12), timeout=60)
    index, _ = wire.decode_design(next(call).rows)
    assert index[0] == 0
    next(call)
    call.cancel()
    assert call.code() is grpc.StatusCode.CANCELLED
    begin = time.monotonic()
    list(stub.StreamDesign(sampler_pb2.StreamDesignRequest(size=10, count=10), timeout=60))
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"size": 0}, "size"),
        ({"size": -1}, "size"),
        ({"size": 2**40 + 1}, "size"),
        ({"size": 10, "start": -1}, "start"),
        ({"size": 10, "start": 11}, "start"),
        ({"size": 10, "count": 11}, "count"),
        ({"size": 10, "start": 1, "count": 10}, "count"),
        ({"size": 10, "count": -1}, "count"),
        ({"size": 10, "count": 2**63 - 1}, "count"),
        ({"size": 10, "count": 1, "chunk_rows": MAX_CHUNK_ROWS + 1}, "chunk_rows"),
        ({"size": 10, "space": {"preset": "moon"}}, "space.preset"),
        ({"size": 10, "space": {"blind_fraction": 1.5}}, "space.blind_fraction"),
        ({"size": 10, "physics": {"claim": "none"}}, "physics.claim"),
        ({"size": 10, "physics": {"memory_model": "none"}}, "physics.memory_model"),
    ],
)
def test_bad_stream_design_requests_name_the_field(
    stub: sampler_pb2_grpc.SamplerServiceStub, fields: dict, field: str
) -> None:
    assert violations(stub.StreamDesign(sampler_pb2.StreamDesignRequest(**fields))) == [field]


def test_reversed_bounds_name_the_field(stub: sampler_pb2_grpc.SamplerServiceStub) -> None:
    request = sampler_pb2.StreamDesignRequest(size=10)
    request.space.bounds["nu"].low, request.space.bounds["nu"].high = 0.9, 0.1
    (field,) = violations(stub.StreamDesign(request))
    assert field.startswith("space.bounds.nu")


def test_check_feasibility_answers_each_message(stub: sampler_pb2_grpc.SamplerServiceStub) -> None:
    _, inputs = LHSSampler(Space(PRESETS["cliff"]), 1, 3000).rows(0, 3000)
    spec = types_pb2.PhysicsSpec(fidelity_convention="weight")
    requests = [
        sampler_pb2.CheckFeasibilityRequest(physics=spec, inputs=wire.encode(inputs[:1000], wire.INPUTS)),
        # Only the first message's physics counts.
        sampler_pb2.CheckFeasibilityRequest(
            physics=types_pb2.PhysicsSpec(claim="erven2014"), inputs=wire.encode(inputs[1000:1000], wire.INPUTS)
        ),
        sampler_pb2.CheckFeasibilityRequest(inputs=wire.encode(inputs[1000:], wire.INPUTS)),
    ]
    answers = [wire.decode(a.feasibility_margin, wire.FEASIBILITY, -1) for a in stub.CheckFeasibility(iter(requests))]
    assert [len(a) for a in answers] == [1000, 0, 2000]
    expected = check_feasibility(inputs, PhysicsSpec(fidelity_convention="weight"))
    assert np.array_equal(np.concatenate(answers), expected)


def test_a_stream_without_messages_has_no_answers(stub: sampler_pb2_grpc.SamplerServiceStub) -> None:
    assert list(stub.CheckFeasibility(iter([]))) == []


def _inputs(column: int, value: float) -> types_pb2.Tensor:
    _, inputs = LHSSampler(Space(PRESETS["cliff"]), 1, 4).rows(0, 4)
    inputs[2, column] = value
    return wire.encode(inputs, wire.INPUTS)


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        (types_pb2.Tensor(), "inputs.element_type"),
        (wire.encode(np.zeros((2, 8), np.float32), wire.INPUTS), "inputs.shape"),
        (wire.encode(np.zeros((2, 9), np.float32), "caligo.inputs/0"), "inputs.schema"),
        (wire.encode(np.zeros((2, 9), np.uint8), wire.INPUTS), "inputs.element_type"),
        (_inputs(3, float("nan")), "inputs"),
        (_inputs(0, 1.01), "inputs[r]"),
        (_inputs(0, -0.01), "inputs[r]"),
        (_inputs(4, 0.1), "inputs[log10_eta]"),
        (_inputs(8, 2.0), "inputs[strategy]"),
    ],
)
def test_bad_rows_name_the_field(
    stub: sampler_pb2_grpc.SamplerServiceStub, tensor: types_pb2.Tensor, field: str
) -> None:
    requests = iter([sampler_pb2.CheckFeasibilityRequest(inputs=tensor)])
    assert violations(stub.CheckFeasibility(requests)) == [field]
