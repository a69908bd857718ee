"""The sampler's gRPC service: stateless, so any replica answers any request with the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import grpc

from caligo import rpc, tracing, wire
from caligo.errors import InvalidArgument
from caligo.spec import PhysicsSpec, SpaceSpec, from_proto
from caligo.v1 import sampler_pb2, sampler_pb2_grpc
from caligo_sampler import metrics
from caligo_sampler.design import LHSSampler
from caligo_sampler.feasibility import check_feasibility
from caligo_sampler.settings import SamplerSettings

MAX_CHUNK_ROWS: Final = 65_536
"""Most rows a message; 3 MiB of them."""
CHUNK_ROWS: Final = 8_192
"""Rows a message where the caller leaves it open."""


class SamplerServicer(sampler_pb2_grpc.SamplerServiceServicer):
    """Design rows and closed-form margins."""

    def StreamDesign(
        self, request: sampler_pb2.StreamDesignRequest, context: grpc.ServicerContext
    ) -> Iterator[sampler_pb2.StreamDesignResponse]:
        """Slices of a design, made as the caller takes them."""
        space = from_proto(request.space, SpaceSpec, "space").resolve()
        physics = from_proto(request.physics, PhysicsSpec, "physics")
        sampler = LHSSampler(space, request.seed, request.size)
        sampler.check_slice(request.start, request.count)
        if request.chunk_rows > MAX_CHUNK_ROWS:
            raise InvalidArgument("chunk_rows", f"must be 0 to {MAX_CHUNK_ROWS}")
        chunk_rows = request.chunk_rows or CHUNK_ROWS
        end = request.start + request.count
        for start in range(request.start, end, chunk_rows):
            began = tracing.now()
            index, inputs = sampler.rows(start, min(chunk_rows, end - start))
            margin = check_feasibility(inputs, physics)
            metrics.ROWS.labels("designed").inc(len(index))
            tracing.add_row_spans("design", index, began)
            yield sampler_pb2.StreamDesignResponse(
                rows=wire.encode_design(index, inputs), feasibility_margin=wire.encode(margin, wire.FEASIBILITY)
            )

    def CheckFeasibility(
        self, request_iterator: Iterator[sampler_pb2.CheckFeasibilityRequest], context: grpc.ServicerContext
    ) -> Iterator[sampler_pb2.CheckFeasibilityResponse]:
        """Margins of the caller's rows, one answer a message."""
        physics: PhysicsSpec | None = None
        for request in request_iterator:
            if physics is None:
                physics = from_proto(request.physics, PhysicsSpec, "physics")
            inputs = wire.decode_inputs(request.inputs)
            began = tracing.now()
            margin = check_feasibility(inputs, physics)
            metrics.ROWS.labels("checked").inc(len(inputs))
            tracing.add_row_spans("check", range(len(inputs)), began)
            yield sampler_pb2.CheckFeasibilityResponse(feasibility_margin=wire.encode(margin, wire.FEASIBILITY))


def service() -> rpc.Service:
    """The service as `caligo.rpc` registers it."""
    name = sampler_pb2.DESCRIPTOR.services_by_name["SamplerService"].full_name
    return rpc.Service(name, sampler_pb2_grpc.add_SamplerServiceServicer_to_server, SamplerServicer())


def serve(settings: SamplerSettings) -> None:
    """Serve until told to stop."""
    rpc.run(settings, [service()])
