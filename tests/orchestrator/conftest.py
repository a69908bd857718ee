"""Stand-ins for simulator and surrogate behind real gRPC servers, and the real sampler."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import h5py
import numpy as np
import pytest
from caligo_orchestrator.api import access
from caligo_orchestrator.api.server import service
from caligo_orchestrator.campaigns.resource import Campaigns
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_sampler.server import SamplerServicer

from caligo import rpc, wire
from caligo.closed_form import expect
from caligo.discrepancy import PROFILE_STEPS, Discrepancy
from caligo.errors import NotFound, ResourceExhausted
from caligo.results import ProtocolOutcome, ProtocolResult, Reason, ResultRows
from caligo.space import COLUMN_SYMBOLS, DIMENSIONS, ExplorationSample
from caligo.spec import CampaignSpec, PhysicsSpec, ProtocolSpec, SpaceSpec, from_proto, to_proto, validate
from caligo.v1 import (
    campaign_pb2,
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
        self.sources = {"statistical": "0.2.0"}
        """EPR sources by version."""
        self.delay_seconds = 0.0
        self.break_after: int | None = None
        """Break the stream with UNAVAILABLE after so many rows, once."""
        self._random = np.random.default_rng()
        self._is_taken = threading.Lock()

    def Simulate(self, request_iterator, context):
        if not self._is_taken.acquire(blocking=False):
            raise ResourceExhausted("one stream at a time")
        if not context.add_callback(self._is_taken.release):
            self._is_taken.release()
        context.send_initial_metadata(((wire.CAPACITY_HEADER, self.GetCapacity(None, context).SerializeToString()),))
        setups = {}
        for request in request_iterator:
            if request.HasField("setup"):
                setups[request.job] = request.setup
                continue
            if request.HasField("withdrawn"):  # too late: rows are computed as they come
                continue
            setup = setups[request.job]
            physics, protocol = from_proto(setup.physics, PhysicsSpec), from_proto(setup.protocol, ProtocolSpec)
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
                yield simulator_pb2.SimulateResponse(job=request.job, results=wire.encode_rows(row))

    def GetCapacity(self, request, context):
        return simulator_pb2.GetCapacityResponse(
            workers=2, max_rows_in_flight=8, epr_sources=list(self.sources), epr_source_versions=self.sources.values()
        )


def closed_form_row(
    index: int, inputs: np.ndarray, physics: PhysicsSpec = PhysicsSpec(), protocol: ProtocolSpec = ProtocolSpec()
) -> ResultRows:
    return _closed_form(inputs.tobytes(), physics.model_dump_json(), protocol.model_dump_json()).to_row(index, inputs)


@functools.cache
def _closed_form(row: bytes, physics: str, protocol: str) -> ProtocolResult:
    """The campaigns of these tests ask for the same rows again and again."""
    inputs = np.frombuffer(row, np.float32)
    sample = ExplorationSample.inflate(0, inputs)
    expected = expect(inputs, PhysicsSpec.model_validate_json(physics), ProtocolSpec.model_validate_json(protocol))
    margin, key_length = float(expected.margin), max(0, math.floor(expected.margin * expected.reconciled))
    succeeded = bool(expected.key > 0.5) and key_length > 0
    key_length *= succeeded
    return ProtocolResult(
        outcome=ProtocolOutcome.SUCCESS if succeeded else ProtocolOutcome.FAILURE_SECURITY,
        reason=Reason.NONE if succeeded else Reason.DEATH_VALLEY,
        net_efficiency=key_length / sample.N,
        margin=margin if succeeded else min(margin, 0.0),
        qber=float(expected.qber),
        pairs=sample.N,
        key_length=key_length,
    )


@dataclasses.dataclass
class _Model:
    rows: dict[tuple[int, int], bytes] = dataclasses.field(default_factory=dict)
    fitted: str = "nothing"
    """What was fitted: a hash of the rows and of the state that the fit began from."""
    fitted_to: int = 0
    """Active rows that the fit saw."""
    history: str = ""
    """A hash of all rows at the last import, and of each block of rows since then in the order in which they came."""
    audited: set[int] = dataclasses.field(default_factory=set)

    def active(self) -> int:
        return sum(phase == 3 for phase, _ in self.rows)

    def content(self) -> str:
        return _hash(sorted(self.rows.items()), sorted(self.audited))


def _hash(*content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()


class StandInSurrogate(surrogate_pb2_grpc.SurrogateServiceServicer):
    """Proposes rows that are a hash of all it holds and of how it came there, so that any other history gives others.

    A fit works on what the model held when it was called, and takes its time.
    """

    def __init__(self) -> None:
        self.models: dict[str, _Model] = {}
        self.proposals: list[tuple[int, int, int, int]] = []
        """(batch, active rows held, active rows in the fit in force, rows pending) of every proposal."""
        self.fitting = 0
        """Fits under way."""
        self.proposed_while_fitting = 0
        self.skip_every = 0
        """Skip rows whose active index is a multiple of this; 0: none."""
        self.audit_every = 0
        """Audit rows whose active index is a multiple of this instead; 0: none."""
        self.think_seconds = 0.0
        self.validates = True
        self._lock = threading.Lock()

    def _model(self, campaign: str) -> _Model:
        if campaign not in self.models:
            raise NotFound(campaign)
        return self.models[campaign]

    def CreateModel(self, request, context):
        model = self.models.setdefault(request.campaign, _Model())
        return surrogate_pb2.CreateModelResponse(rows_held=len(model.rows))

    def DeleteModel(self, request, context):
        self._model(request.campaign)
        del self.models[request.campaign]
        return surrogate_pb2.DeleteModelResponse()

    def GetModel(self, request, context):
        model = self._model(request.campaign)
        scales = np.linspace(1, 2, DIMENSIONS, dtype=np.float32)
        return surrogate_pb2.GetModelResponse(
            rows_held=len(model.rows),
            fitted=True,
            length_scales=wire.encode(scales, wire.INPUTS),
            secure_fraction=0.5,
            guardrail=surrogate_pb2.GuardrailState(
                active=True, threshold=0.99, audits=len(model.audited), false_skips=0, false_skip_bound=0.25
            ),
        )

    def Observe(self, request_iterator, context):
        held, campaign = 0, ""
        for request in request_iterator:
            campaign = campaign or request.campaign
            model = self._model(campaign)
            rows = wire.decode_rows(request.rows)
            if request.HasField("audited"):
                model.audited.update(rows["index"][wire.decode(request.audited, wire.CODE, len(rows)) == 1].tolist())
            for row in rows:
                stable = row.copy()
                stable["metrics"][-1] = 0  # wall_seconds
                model.rows[request.phase, int(row["index"])] = stable.tobytes()
            model.history = _hash(model.history, model.content())
            held = len(model.rows)
        return surrogate_pb2.ObserveResponse(rows_held=held)

    def FitModel(self, request, context):
        model = self._model(request.campaign)
        fitted, fitted_to, rows = _hash(model.content(), model.fitted), model.active(), len(model.rows)
        context.send_initial_metadata(())
        with self._lock:
            self.fitting += 1
        try:
            yield surrogate_pb2.FitModelResponse(progress=surrogate_pb2.FitProgress(step=1, steps=2, loss=1.0))
            time.sleep(self.think_seconds)
        finally:
            with self._lock:
                self.fitting -= 1
        if not request.keep_current:
            self._import(self._model(request.campaign), fitted, fitted_to)
        scores = surrogate_pb2.Validation(rows=3, rmse=0.1, f1=0.9, brier=0.05) if self.validates else None
        summary = surrogate_pb2.FitSummary(
            rows=rows,
            validation=scores,
            cross_validation=surrogate_pb2.Validation(rows=request.folds) if request.folds else None,
            tensors=fitted.encode(),
            metadata=str(fitted_to),
            secure_fraction=0.5,
        )
        yield surrogate_pb2.FitModelResponse(summary=summary)

    def ProposeBatch(self, request, context):
        model = self._model(request.campaign)
        self.proposed_while_fitting += self.fitting > 0
        pending = wire.decode_inputs(request.pending)
        digest = bytes.fromhex(_hash(request.batch, model.fitted, model.history, model.content(), pending.tobytes()))
        generator = np.random.default_rng(list(digest))
        unit = generator.random((request.size, DIMENSIONS), dtype=np.float32)
        unit[:, -1] = unit[:, -1].round()
        inputs = SpaceSpec().resolve().from_unit(unit)
        self.proposals.append((request.batch, model.active(), model.fitted_to, len(pending)))
        # Foretold as it is, give or take: the mean is the closed form's margin, a standard deviation of 1 too high.
        mean = np.concatenate([closed_form_row(0, row)["metrics"][:, 1] for row in inputs]) + np.float32(0.5)
        posterior = np.stack([mean, np.full(len(mean), 0.5, dtype=np.float32)], axis=1)
        index = request.batch * request.size + np.arange(request.size)
        skip = np.zeros(len(index), dtype=np.uint8)
        for code, every in ((1, self.skip_every), (2, self.audit_every)):
            if every:
                skip[index % every == 0] = code
        return surrogate_pb2.ProposeBatchResponse(
            inputs=wire.encode(inputs, wire.INPUTS),
            posterior=wire.encode(posterior, wire.POSTERIOR),
            skip=wire.encode(skip, wire.CODE),
            tensors=model.fitted.encode(),
            metadata=str(model.fitted_to),
        )

    def PredictRows(self, request, context):
        """The mean is the number of rows held, the standard deviation that of rows in the fit."""
        model = self._model(request.campaign)
        answer = np.zeros((len(wire.decode_inputs(request.inputs)), 3), dtype=np.float32)
        answer[:] = len(model.rows), model.fitted_to, 0.5
        return surrogate_pb2.PredictRowsResponse(prediction=wire.encode(answer, wire.PREDICTION))

    def ExplainModel(self, request, context):
        """What is found is the same in every campaign."""
        self._model(request.campaign)
        return explained()

    def GetBoundary(self, request, context):
        """Of 64 points, one changes sides with every 4 active rows until there are 12; the score falls with rows."""
        active = self._model(request.campaign).active()
        sides = np.arange(64) < min(active, 12) // 4
        score = None if request.sides_only else 0.2 / (1 + active)
        return surrogate_pb2.GetBoundaryResponse(
            sides=wire.encode(sides.astype(np.uint8), wire.CODE), expected_brier=score
        )

    def ExportModel(self, request, context):
        model = self._model(request.campaign)
        return surrogate_pb2.ExportModelResponse(tensors=model.fitted.encode(), metadata=str(model.fitted_to))

    def ImportModel(self, request, context):
        self._import(self._model(request.campaign), request.tensors.decode(), int(request.metadata))
        return surrogate_pb2.ImportModelResponse()

    def _import(self, model: _Model, fitted: str, fitted_to: int) -> None:
        model.fitted, model.fitted_to = fitted, fitted_to
        model.history = _hash(model.content())


def explained() -> surrogate_pb2.ExplainModelResponse:
    """A difference of 0.1 to 0.9 along every parameter, each a little more relevant than the one before it."""
    steps = np.linspace(0.1, 0.9, PROFILE_STEPS, dtype=np.float32)
    found = Discrepancy(40, 0.001, 0.95, [0.5, -1, 8, 0.9, -1, 0.01, -6, 6, 1], 0.5, 0.05, "F")
    return surrogate_pb2.ExplainModelResponse(
        relevance=[
            surrogate_pb2.Relevance(parameter=symbol, first_order=0.01 * j, first_order_error=0.001, total=0.1 * j)
            for j, symbol in enumerate(COLUMN_SYMBOLS)
        ],
        discrepancy=found.to_message(),
        profiles=wire.encode(np.tile(steps[:, None], (DIMENSIONS, 1, 3)), wire.PROFILES),
    )


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


class _Late:
    """A servicer whose methods are looked up when they are called, so that a test can put others in their place."""

    def __init__(self, servicer: object) -> None:
        self._servicer = servicer

    def __getattr__(self, method: str) -> Callable:
        return lambda request, context: getattr(self._servicer, method)(request, context)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Farmhouse]:
    simulator, surrogate = StandInSimulator(), StandInSurrogate()
    servers = []

    def listen(name: str, register, servicer) -> str:
        server = rpc.Server(f"unix:{tmp_path}/{name}", [rpc.Service(f"caligo.v1.{name}", register, _Late(servicer))])
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


def table(directory: Path, name: str = "test") -> dict[str, np.ndarray]:
    """Every dataset of a campaign's file by name, wall_seconds blanked."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(directory / "campaigns" / name / "exploration_data.h5") as file:
        file.visititems(lambda name, node: found.__setitem__(name, node[...]) if hasattr(node, "dtype") else None)
    for group in ("lhs_warmup", "active_learning"):
        found[f"{group}/metrics"][:, -1] = 0
    return found


@pytest.fixture(scope="session")
def _undisturbed() -> dict[str, dict[str, np.ndarray]]:
    return {}


@pytest.fixture
def undisturbed(_undisturbed, start, spec, tmp_path) -> dict[str, np.ndarray]:
    """`table` of a campaign of `spec` that nothing happened to; run once, whichever test asks first."""
    key = spec.model_dump_json()
    if key not in _undisturbed:
        orchestrator = start(tmp_path / "undisturbed")
        request = campaign_pb2.CreateCampaignRequest(spec=to_proto(spec, campaign_pb2.CampaignSpec))
        name = orchestrator.stub.CreateCampaign(request).campaign.name
        for _ in orchestrator.stub.WatchCampaign(campaign_pb2.WatchCampaignRequest(name=name), timeout=60):
            pass
        orchestrator.close()
        _undisturbed[key] = table(tmp_path / "undisturbed")
    return _undisturbed[key]


class Orchestrator:
    """An orchestrator with its gRPC server, started and stopped by a test."""

    def __init__(self, settings: OrchestratorSettings, socket: Path) -> None:
        self.lost = threading.Event()
        self.campaigns = Campaigns(settings, self.lost.set)
        self._guard = access.guard(settings)
        self._server = rpc.Server(
            f"unix:{socket}",
            [service(self.campaigns)],
            interceptors=[self._guard.__enter__()],
            threads=settings.threads,
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
        self._guard.__exit__(None, None, None)


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
