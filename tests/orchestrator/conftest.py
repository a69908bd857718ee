"""Stand-ins for simulator and surrogate behind real gRPC servers, and the real sampler."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from caligo_orchestrator.manager import Campaigns
from caligo_orchestrator.server import CampaignServicer
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_sampler.server import SamplerServicer

from caligo import rpc, wire
from caligo.closed_form import expect
from caligo.errors import NotFound
from caligo.results import ProtocolOutcome, ProtocolResult, Reason, ResultRows
from caligo.space import DIMENSIONS, ExplorationSample
from caligo.spec import CampaignSpec, PhysicsSpec, ProtocolSpec, SpaceSpec, from_proto, validate
from caligo.v1 import (
    campaign_pb2_grpc,
    sampler_pb2_grpc,
    simulator_pb2,
    simulator_pb2_grpc,
    surrogate_pb2,
    surrogate_pb2_grpc,
)


class StandInSimulator(simulator_pb2_grpc.SimulatorServiceServicer):
    """Answers with the closed form, after delays that differ from run to run, in any order."""

    def __init__(self) -> None:
        self.simulated: list[tuple[int, int]] = []
        """(phase, index) of every row computed, repeats included."""
        self.delay_seconds = 0.0
        self.break_after: int | None = None
        """Break the stream with UNAVAILABLE after so many rows, once."""
        self._random = np.random.default_rng()

    def Simulate(self, request_iterator, context):
        setup = next(request_iterator).setup
        physics, protocol = from_proto(setup.physics, PhysicsSpec), from_proto(setup.protocol, ProtocolSpec)
        for request in request_iterator:
            index, inputs = wire.decode_design(request.rows)
            for j in self._random.permutation(len(index)):
                if self.break_after == 0:
                    self.break_after = None
                    context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
                if self.break_after is not None:
                    self.break_after -= 1
                if self.delay_seconds:
                    time.sleep(self._random.uniform(0, 2 * self.delay_seconds))
                self.simulated.append((setup.phase, int(index[j])))
                row = closed_form_row(int(index[j]), inputs[j], physics, protocol)
                yield simulator_pb2.SimulateResponse(results=wire.encode_rows(row))

    def GetCapacity(self, request, context):
        return simulator_pb2.GetCapacityResponse(workers=1, slots=1, epr_sources=["statistical"])


def closed_form_row(
    index: int, inputs: np.ndarray, physics: PhysicsSpec = PhysicsSpec(), protocol: ProtocolSpec = ProtocolSpec()
) -> ResultRows:
    sample = ExplorationSample.inflate(index, inputs)
    expected = expect(sample, physics, protocol)
    succeeded = expected.key_length > 0
    return ProtocolResult(
        outcome=ProtocolOutcome.SUCCESS if succeeded else ProtocolOutcome.FAILURE_SECURITY,
        reason=Reason.NONE if succeeded else Reason.DEATH_VALLEY,
        net_efficiency=expected.key_length / sample.N,
        margin=expected.margin if succeeded else min(expected.margin, 0.0),
        qber=expected.qber,
        pairs=sample.N,
        key_length=expected.key_length,
    ).to_row(index, inputs)


@dataclasses.dataclass
class _Model:
    rows: dict[tuple[int, int], bytes] = dataclasses.field(default_factory=dict)
    fits: int = 0


class StandInSurrogate(surrogate_pb2_grpc.SurrogateServiceServicer):
    """Proposes rows that are a hash of all it holds, so that any other history gives other rows."""

    def __init__(self) -> None:
        self.models: dict[str, _Model] = {}
        self.proposals: list[tuple[int, int, int]] = []
        """(batch, active rows held, rows pending) of every proposal."""
        self.skip_every = 0
        """Skip rows whose active index is a multiple of this; 0: none."""
        self.think_seconds = 0.0
        self.validates = True

    def _model(self, campaign: str) -> _Model:
        if campaign not in self.models:
            raise NotFound(campaign)
        return self.models[campaign]

    def CreateModel(self, request, context):
        self.models.setdefault(request.campaign, _Model())
        return surrogate_pb2.CreateModelResponse()

    def DeleteModel(self, request, context):
        self._model(request.campaign)
        del self.models[request.campaign]
        return surrogate_pb2.DeleteModelResponse()

    def GetModel(self, request, context):
        model = self._model(request.campaign)
        scales = np.linspace(1, 2, DIMENSIONS, dtype=np.float32)
        return surrogate_pb2.GetModelResponse(
            rows_held=len(model.rows), fitted=True, length_scales=wire.encode(scales, wire.INPUTS), secure_fraction=0.5
        )

    def Observe(self, request_iterator, context):
        held = 0
        for request in request_iterator:
            model = self._model(request.campaign)
            rows = wire.decode_rows(request.rows)
            for row in rows:
                stable = row.copy()
                stable["metrics"][-1] = 0  # wall_seconds
                model.rows[request.phase, int(row["index"])] = stable.tobytes()
            held = len(model.rows)
        return surrogate_pb2.ObserveResponse(rows_held=held)

    def FitModel(self, request, context):
        model = self._model(request.campaign)
        time.sleep(self.think_seconds)
        model.fits += 1
        yield surrogate_pb2.FitModelResponse(progress=surrogate_pb2.FitProgress(step=1, steps=2, loss=1.0))
        scores = surrogate_pb2.Validation(rows=3, rmse=0.1, f1=0.9, brier=0.05) if self.validates else None
        yield surrogate_pb2.FitModelResponse(summary=surrogate_pb2.FitSummary(rows=len(model.rows), validation=scores))

    def ProposeBatch(self, request, context):
        model = self._model(request.campaign)
        pending = wire.decode_inputs(request.pending)
        digest = hashlib.sha256(repr((request.batch, model.fits, sorted(model.rows.items()))).encode())
        digest.update(pending.tobytes())
        generator = np.random.default_rng(list(digest.digest()))
        unit = generator.random((request.size, DIMENSIONS), dtype=np.float32)
        unit[:, -1] = unit[:, -1].round()
        inputs = SpaceSpec().resolve().from_unit(unit)
        active = sum(phase == 3 for phase, _ in model.rows)
        self.proposals.append((request.batch, active, len(pending)))
        return surrogate_pb2.ProposeBatchResponse(inputs=wire.encode(inputs, wire.INPUTS))

    def ScreenRows(self, request, context):
        index, _ = wire.decode_design(request.rows)
        skip = (index % self.skip_every == 0) if self.skip_every else np.zeros(len(index), dtype=bool)
        return surrogate_pb2.ScreenRowsResponse(
            failure_probability=wire.encode(skip.astype(np.float32), wire.FAILURE),
            skip=wire.encode(skip.astype(np.uint8), wire.CODE),
        )

    def PredictRows(self, request, context):
        n = len(wire.decode_inputs(request.inputs))
        return surrogate_pb2.PredictRowsResponse(
            prediction=wire.encode(np.zeros((n, 3), dtype=np.float32), wire.PREDICTION)
        )

    def ExportModel(self, request, context):
        return surrogate_pb2.ExportModelResponse(tensors=b"t", metadata=str(self._model(request.campaign).fits))

    def ImportModel(self, request, context):
        self._model(request.campaign).fits = int(request.metadata)
        return surrogate_pb2.ImportModelResponse()


@dataclasses.dataclass
class Farmhouse:
    """Addresses of the other services, and the stand-ins behind them."""

    sampler: str
    simulator_address: str
    surrogate_address: str
    simulator: StandInSimulator
    surrogate: StandInSurrogate

    def settings(self, directory: Path, patience: float = 5, **changes: object) -> OrchestratorSettings:
        return OrchestratorSettings(
            data_directory=directory,
            sampler=self.sampler,
            simulator=self.simulator_address,
            surrogate=self.surrogate_address,
            patience_seconds=patience,
            **changes,
        )


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Farmhouse]:
    simulator, surrogate = StandInSimulator(), StandInSurrogate()
    servers = []

    def listen(name: str, register, servicer) -> str:
        server = rpc.Server(f"unix:{tmp_path}/{name}", [rpc.Service(f"caligo.v1.{name}", register, servicer)])
        server.start()
        servers.append(server)
        return server.address

    yield Farmhouse(
        listen("SamplerService", sampler_pb2_grpc.add_SamplerServiceServicer_to_server, SamplerServicer()),
        listen("SimulatorService", simulator_pb2_grpc.add_SimulatorServiceServicer_to_server, simulator),
        listen("SurrogateService", surrogate_pb2_grpc.add_SurrogateServiceServicer_to_server, surrogate),
        simulator,
        surrogate,
    )
    for server in servers:
        server.stop(0)


@pytest.fixture
def spec() -> CampaignSpec:
    return validate(CampaignSpec, {"name": "test", "lhs": {"samples": 40}, "active": {"samples": 20, "batch_size": 4}})


class Orchestrator:
    """An orchestrator with its gRPC server, started and stopped by a test."""

    def __init__(self, settings: OrchestratorSettings, socket: Path) -> None:
        self.campaigns = Campaigns(settings)
        self._server = rpc.Server(
            f"unix:{socket}",
            [
                rpc.Service(
                    "caligo.v1.CampaignService",
                    campaign_pb2_grpc.add_CampaignServiceServicer_to_server,
                    CampaignServicer(self.campaigns),
                )
            ],
        )
        self.campaigns.start()
        self._server.start()
        self.address = self._server.address
        self._channel = rpc.channel(self.address)
        self.stub = campaign_pb2_grpc.CampaignServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()
        self.campaigns.close()
        self._server.stop(0)


@pytest.fixture
def start(services: Farmhouse, tmp_path: Path) -> Iterator[object]:
    """`start(directory, **settings)` makes a running orchestrator; those still running are stopped at the end."""
    running: list[Orchestrator] = []

    def start(directory: Path, **changes: object) -> Orchestrator:
        orchestrator = Orchestrator(services.settings(directory, **changes), tmp_path / f"o{len(running)}")
        running.append(orchestrator)
        close = orchestrator.close
        closed = threading.Event()

        def close_once() -> None:
            if not closed.is_set():
                closed.set()
                close()

        orchestrator.close = close_once  # type: ignore[method-assign]
        return orchestrator

    yield start
    for orchestrator in running:
        orchestrator.close()
