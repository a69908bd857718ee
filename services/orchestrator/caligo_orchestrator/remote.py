"""The other services as the orchestrator sees them: typed calls, NumPy in and out."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from caligo import rpc, wire
from caligo.errors import NotFound
from caligo.results import ResultRows
from caligo.seeds import Phase
from caligo.spec import CampaignSpec, to_proto
from caligo.v1 import (
    sampler_pb2,
    sampler_pb2_grpc,
    surrogate_pb2,
    surrogate_pb2_grpc,
    types_pb2,
)

_OBSERVE_BLOCK = 8192


@dataclasses.dataclass(frozen=True)
class DesignRows:
    """A chunk of a design: index int64 [n], inputs float32 [n, 9], feasible bool [n]."""

    index: NDArray[np.int64]
    inputs: NDArray[np.float32]
    feasible: NDArray[np.bool_]


class Sampler:
    """Designs with their feasibility."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = rpc.channel(address)
        self._stub = sampler_pb2_grpc.SamplerServiceStub(self._channel)

    def design(self, spec: CampaignSpec, seed: int, size: int, start: int, count: int) -> Iterator[DesignRows]:
        """Rows [start, start + count) of the design of `size` rows, chunk by chunk."""
        request = sampler_pb2.StreamDesignRequest(
            space=to_proto(spec.space, types_pb2.SpaceSpec),
            physics=to_proto(spec.physics, types_pb2.PhysicsSpec),
            seed=seed,
            size=size,
            start=start,
            count=count,
            chunk_rows=4096,
        )
        with rpc.calling(self._address):
            for response in self._stub.StreamDesign(request, wait_for_ready=True):
                index, inputs = wire.decode_design(response.rows)
                margin = wire.decode(response.feasibility_margin, wire.FEASIBILITY, len(index))
                yield DesignRows(index, inputs, margin > 0)

    def feasible(self, spec: CampaignSpec, inputs: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which rows [n, 9] the closed form leaves some hope of a key, bool [n]."""
        request = sampler_pb2.CheckFeasibilityRequest(
            physics=to_proto(spec.physics, types_pb2.PhysicsSpec), inputs=wire.encode(inputs, wire.INPUTS)
        )
        with rpc.calling(self._address):
            (response,) = self._stub.CheckFeasibility(iter([request]), wait_for_ready=True)
            return wire.decode(response.feasibility_margin, wire.FEASIBILITY, len(inputs)) > 0

    def close(self) -> None:
        self._channel.close()


class Surrogate:
    """The surrogate of one campaign."""

    def __init__(self, address: str, campaign: str) -> None:
        self._address = address
        self._campaign = campaign
        self._channel = rpc.channel(address)
        self._stub = surrogate_pb2_grpc.SurrogateServiceStub(self._channel)

    def create(self, spec: CampaignSpec) -> None:
        """Make the model anew, empty."""
        with contextlib.suppress(NotFound):
            self.delete()
        with rpc.calling(self._address):
            self._stub.CreateModel(
                surrogate_pb2.CreateModelRequest(
                    campaign=self._campaign,
                    space=to_proto(spec.space, types_pb2.SpaceSpec),
                    surrogate=to_proto(spec.surrogate, surrogate_pb2.SurrogateSpec),
                    guardrail=to_proto(spec.guardrail, surrogate_pb2.GuardrailSpec),
                    seed=spec.seed,
                )
            )

    def observe(self, phase: Phase, rows: ResultRows) -> None:
        """Add result rows; again is harmless."""

        def requests() -> Iterator[surrogate_pb2.ObserveRequest]:
            for start in range(0, len(rows), _OBSERVE_BLOCK):
                block = wire.encode_rows(rows[start : start + _OBSERVE_BLOCK])
                yield surrogate_pb2.ObserveRequest(campaign=self._campaign, phase=wire.encode_phase(phase), rows=block)

        with rpc.calling(self._address):
            self._stub.Observe(requests())

    def fit(self, holdout_fraction: float) -> Iterator[surrogate_pb2.FitModelResponse]:
        """Train; progress messages, the summary last."""
        request = surrogate_pb2.FitModelRequest(campaign=self._campaign, holdout_fraction=holdout_fraction)
        with rpc.calling(self._address):
            yield from self._stub.FitModel(request)

    def propose(self, batch: int, size: int, pending: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next joint batch, float32 [size, 9]."""
        request = surrogate_pb2.ProposeBatchRequest(
            campaign=self._campaign, batch=batch, size=size, pending=wire.encode(pending, wire.INPUTS)
        )
        with rpc.calling(self._address):
            return wire.decode_inputs(self._stub.ProposeBatch(request).inputs)

    def screen(self, index: NDArray[np.int64], inputs: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The guardrail's verdict, bool [n], True to skip."""
        request = surrogate_pb2.ScreenRowsRequest(campaign=self._campaign, rows=wire.encode_design(index, inputs))
        with rpc.calling(self._address):
            response = self._stub.ScreenRows(request)
            return wire.decode(response.skip, wire.CODE, len(index)).astype(np.bool_)

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean, standard deviation and probability of a key, float32 [n, 3]."""
        request = surrogate_pb2.PredictRowsRequest(campaign=self._campaign, inputs=wire.encode(inputs, wire.INPUTS))
        with rpc.calling(self._address):
            return wire.decode(self._stub.PredictRows(request).prediction, wire.PREDICTION, len(inputs), 3)

    def describe(self) -> surrogate_pb2.GetModelResponse:
        with rpc.calling(self._address):
            return self._stub.GetModel(surrogate_pb2.GetModelRequest(campaign=self._campaign))

    def export(self) -> tuple[bytes, str]:
        """Hyper-parameters as safetensors bytes, the rest as JSON text."""
        with rpc.calling(self._address):
            response = self._stub.ExportModel(surrogate_pb2.ExportModelRequest(campaign=self._campaign))
            return response.tensors, response.metadata

    def restore(self, tensors: bytes, metadata: str) -> None:
        request = surrogate_pb2.ImportModelRequest(campaign=self._campaign, tensors=tensors, metadata=metadata)
        with rpc.calling(self._address):
            self._stub.ImportModel(request)

    def delete(self) -> None:
        with rpc.calling(self._address):
            self._stub.DeleteModel(surrogate_pb2.DeleteModelRequest(campaign=self._campaign), wait_for_ready=True)

    def close(self) -> None:
        self._channel.close()
