"""The gRPC face of the surrogate: one `EfficiencyLandscape` a campaign."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import grpc
import numpy as np
import torch

from caligo import logs, rpc, tracing, wire
from caligo.discrepancy import RELEVANCE_COLUMNS
from caligo.errors import AlreadyExists, InvalidArgument, NotFound
from caligo.phases import Phase
from caligo.results import METRIC, ProtocolOutcome, ResultRows
from caligo.space import COLUMN_SYMBOLS, DIMENSIONS, check_limits
from caligo.spec import GuardrailSpec, PhysicsSpec, ProtocolSpec, SpaceSpec, SurrogateSpec, from_proto
from caligo.v1 import surrogate_pb2, surrogate_pb2_grpc
from caligo_surrogate import metrics
from caligo_surrogate.device import Device
from caligo_surrogate.landscape import EfficiencyLandscape, Summary
from caligo_surrogate.settings import SurrogateSettings
from caligo_surrogate.validation import Validation

log = logs.get("surrogate.server")

SERVICE_NAME: Final = surrogate_pb2.DESCRIPTOR.services_by_name["SurrogateService"].full_name
MAX_BATCH: Final = 256
"""Candidates of one joint batch."""
MAX_BATCHES: Final = 2**48
"""Number of the last batch: indices of its rows fit into 64 bits."""
MAX_FOLDS: Final = 100
_LARGEST_TARGET: Final = 100.0
"""Far above what a run can give; both targets are bits a bit."""
_CAMPAIGN: Final = re.compile(r"campaigns/[^/]+")


@dataclass
class _Model:
    """A campaign's landscape, the settings that it was made with, and the lock that its callers take in turn.

    Attributes:
        bytes_held: by the landscape when it was last used.
    """

    settings: tuple[SpaceSpec, SurrogateSpec, GuardrailSpec, PhysicsSpec, ProtocolSpec, int]
    landscape: EfficiencyLandscape
    lock: threading.Lock = field(default_factory=threading.Lock)
    bytes_held: int = 0


class SurrogateServicer(surrogate_pb2_grpc.SurrogateServiceServicer):
    """SurrogateService: several campaigns share a device.

    Where they hold more than `memory_budget` bytes together, those least recently used give up what can be computed
    again; if that is not enough, they are forgotten whole. The one in use always stays.
    """

    def __init__(self, device: Device, memory_budget: int) -> None:
        self._device = device
        self._memory_budget = memory_budget
        self._models: OrderedDict[str, _Model] = OrderedDict()
        self._lock = threading.Lock()
        metrics.DEVICE.info({"device": device.name})
        metrics.BUDGET.set(memory_budget)
        metrics.MODELS.set_function(lambda: len(self._models))
        metrics.ROWS_HELD.set_function(lambda: sum(m.landscape.rows_held for m in self._held()))
        metrics.BYTES_HELD.set_function(lambda: sum(m.bytes_held for m in self._held()))

    def CreateModel(
        self, request: surrogate_pb2.CreateModelRequest, context: grpc.ServicerContext
    ) -> surrogate_pb2.CreateModelResponse:
        if not _CAMPAIGN.fullmatch(request.campaign):
            raise InvalidArgument("campaign", 'must be "campaigns/{id}"')
        space = from_proto(request.space, SpaceSpec, "space")
        surrogate = from_proto(request.surrogate, SurrogateSpec, "surrogate")
        guardrail = from_proto(request.guardrail, GuardrailSpec, "guardrail")
        physics = from_proto(request.physics, PhysicsSpec, "physics")
        protocol = from_proto(request.protocol, ProtocolSpec, "protocol")
        settings = (space, surrogate, guardrail, physics, protocol, request.seed)
        with self._lock:
            held = self._models.get(request.campaign)
            if held is None:
                landscape = EfficiencyLandscape(space.resolve(), *settings[1:], self._device)
                held = self._models[request.campaign] = _Model(settings, landscape)
                log.info("model made", model=request.campaign, device=self._device.name, prior=landscape.prior.name)
            elif held.settings != settings:
                raise AlreadyExists(f"{request.campaign}: there is a model with other settings")
            self._models.move_to_end(request.campaign)
        return surrogate_pb2.CreateModelResponse(rows_held=held.landscape.rows_held)

    def GetModel(
        self, request: surrogate_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> surrogate_pb2.GetModelResponse:
        with self._holding(request.campaign) as landscape:
            guardrail = landscape.guardrail().state
            response = surrogate_pb2.GetModelResponse(
                rows_held=landscape.rows_held,
                fitted=landscape.is_fitted,
                guardrail_active=guardrail.is_active,
                device=self._device.name,
                solver=landscape.method(),
                guardrail=surrogate_pb2.GuardrailState(
                    active=guardrail.is_active,
                    threshold=guardrail.threshold,
                    audits=guardrail.audits,
                    false_skips=guardrail.false_skips,
                    false_skip_bound=guardrail.false_skip_bound,
                    evidence=guardrail.evidence,
                    false_audits=guardrail.false_audits,
                    mode=guardrail.mode.value,
                    table_refused=guardrail.table_refused,
                ),
                health=surrogate_pb2.SolverHealth(**dataclasses.asdict(landscape.health)),
                bytes_held=landscape.bytes_held(),
                prior=landscape.prior.name,
            )
            if landscape.is_fitted:
                fraction, error = landscape.secure_fraction()
                response.length_scales.CopyFrom(wire.encode(landscape.length_scales(), wire.INPUTS))
                response.noise = landscape.noise()
                response.secure_fraction = fraction
                response.secure_fraction_error = error
            return response

    def DeleteModel(
        self, request: surrogate_pb2.DeleteModelRequest, context: grpc.ServicerContext
    ) -> surrogate_pb2.DeleteModelResponse:
        with self._lock:
            if self._models.pop(request.campaign, None) is None:
                raise _unknown(request.campaign)
        return surrogate_pb2.DeleteModelResponse()

    def Observe(
        self, request_iterator: Iterator[surrogate_pb2.ObserveRequest], context: grpc.ServicerContext
    ) -> surrogate_pb2.ObserveResponse:
        campaign, held = "", 0
        for number, request in enumerate(request_iterator):
            campaign = campaign or request.campaign
            try:
                phase = Phase(request.phase)
            except ValueError:
                raise InvalidArgument("phase", "must be a phase of the contract") from None
            began = tracing.now()
            rows = wire.decode_rows(request.rows)
            _check_rows(rows)
            audited = None
            if request.HasField("audited"):
                audited = wire.decode(request.audited, wire.CODE, len(rows), field="audited") == 1
            with self._holding(campaign) as landscape:
                landscape.observe(phase, rows, audited)
                held = landscape.rows_held
            tracing.add_row_spans("observe", rows["index"], began)
            log.debug("observed", model=campaign, message=number, rows=len(rows), held=held)
        if not campaign:
            raise InvalidArgument("campaign", "must be named in the first message")
        return surrogate_pb2.ObserveResponse(rows_held=held)

    def FitModel(
        self, request: surrogate_pb2.FitModelRequest, context: grpc.ServicerContext
    ) -> Iterator[surrogate_pb2.FitModelResponse]:
        if not 0 <= request.holdout_fraction <= 0.5:
            raise InvalidArgument("holdout_fraction", "must lie in [0, 0.5]")
        if request.folds > MAX_FOLDS:
            raise InvalidArgument("folds", f"must lie in [0, {MAX_FOLDS}]")
        with self._holding(request.campaign) as landscape:
            twin = landscape.snapshot()
        context.send_initial_metadata(())
        fitting = twin.fit(request.holdout_fraction)  # minutes where rows are many: nobody waits for it
        while context.is_active():
            try:
                progress = next(fitting)
            except StopIteration as end:
                summary = self._summary(end.value, twin, request.folds)
                if not request.keep_current:
                    with self._holding(request.campaign) as landscape:
                        landscape.load(summary.tensors, summary.metadata)
                yield surrogate_pb2.FitModelResponse(summary=summary)
                return
            yield surrogate_pb2.FitModelResponse(
                progress=surrogate_pb2.FitProgress(step=progress.step, steps=progress.steps, loss=progress.loss)
            )

    def _summary(self, summary: Summary, fitted: EfficiencyLandscape, folds: int) -> surrogate_pb2.FitSummary:
        fitted.guardrail()  # learned here, in the background, and not at the next screening
        tensors, metadata = fitted.export()
        fraction, error = fitted.secure_fraction()
        message = surrogate_pb2.FitSummary(
            rows=summary.rows,
            loss=summary.loss,
            steps=summary.steps,
            device=self._device.name,
            solver=summary.solver,
            tensors=tensors,
            metadata=metadata,
            secure_fraction=fraction,
            secure_fraction_error=error,
        )
        if summary.validation is not None:
            message.validation.CopyFrom(_to_proto(summary.validation))
        cross_validation = fitted.cross_validate(folds)
        if cross_validation is not None:
            message.cross_validation.CopyFrom(_to_proto(cross_validation))
        return message

    def ProposeBatch(
        self, request: surrogate_pb2.ProposeBatchRequest, context: grpc.ServicerContext
    ) -> surrogate_pb2.ProposeBatchResponse:
        if not 0 <= request.batch <= MAX_BATCHES:
            raise InvalidArgument("batch", f"must lie in [0, {MAX_BATCHES}]")
        if not 1 <= request.size <= MAX_BATCH:
            raise InvalidArgument("size", f"must lie in [1, {MAX_BATCH}]")
        pending = np.zeros((0, DIMENSIONS), dtype=np.float32)
        if request.HasField("pending"):
            pending = wire.decode_inputs(request.pending, "pending")
        began = tracing.now()
        with self._holding(request.campaign) as landscape:
            inputs = landscape.propose(request.batch, request.size, pending)
            prediction = landscape.predict(inputs)
            proposed = tracing.now()
            index = request.batch * request.size + np.arange(request.size, dtype=np.int64)
            _, verdicts = landscape.screen(inputs, index)
            tensors, metadata = landscape.export()
        tracing.add_row_spans("propose", range(request.size), began, proposed)
        tracing.add_row_spans("screen", range(request.size), proposed)
        return surrogate_pb2.ProposeBatchResponse(
            inputs=wire.encode(inputs, wire.INPUTS),
            posterior=wire.encode(np.stack([prediction.mean, prediction.sd], axis=1), wire.POSTERIOR),
            skip=wire.encode(verdicts, wire.CODE),
            tensors=tensors,
            metadata=metadata,
        )

    def ScreenRows(
        self, request: surrogate_pb2.ScreenRowsRequest, context: grpc.ServicerContext
    ) -> surrogate_pb2.ScreenRowsResponse:
        index, inputs = wire.decode_design(request.rows)
        began = tracing.now()
        with self._holding(request.campaign) as landscape:
            probability, verdicts = landscape.screen(inputs, index)
        tracing.add_row_spans("screen", index, began)
        return surrogate_pb2.ScreenRowsResponse(
            failure_probability=wire.encode(probability, wire.FAILURE),
            skip=wire.encode(verdicts, wire.CODE),
        )

    def GetBoundary(
        self, request: surrogate_pb2.GetBoundaryRequest, context: grpc.ServicerContext
    ) -> surrogate_pb2.GetBoundaryResponse:
        with self._holding(request.campaign) as landscape:
            sides = landscape.sides()
            expected_brier = None if request.sides_only else landscape.expected_brier()
        return surrogate_pb2.GetBoundaryResponse(
            sides=wire.encode(sides.astype(np.uint8), wire.CODE), expected_brier=expected_brier
        )

    def ExplainModel(
        self, request: surrogate_pb2.ExplainModelRequest, context: grpc.ServicerContext
    ) -> surrogate_pb2.ExplainModelResponse:
        with self._holding(request.campaign) as landscape:
            explained = landscape.explain()
        response = surrogate_pb2.ExplainModelResponse(
            relevance=[
                surrogate_pb2.Relevance(parameter=symbol, **dict(zip(RELEVANCE_COLUMNS, indices, strict=True)))
                for symbol, indices in zip(COLUMN_SYMBOLS, explained.relevance.tolist(), strict=True)
            ]
        )
        if explained.discrepancy is not None and explained.profiles is not None:
            response.discrepancy.CopyFrom(explained.discrepancy.to_message())
            response.profiles.CopyFrom(wire.encode(explained.profiles, wire.PROFILES))
        return response

    def PredictRows(
        self, request: surrogate_pb2.PredictRowsRequest, context: grpc.ServicerContext
    ) -> surrogate_pb2.PredictRowsResponse:
        inputs = wire.decode_inputs(request.inputs)
        with self._holding(request.campaign) as landscape:
            p = landscape.predict(inputs)
        return surrogate_pb2.PredictRowsResponse(
            prediction=wire.encode(np.stack([p.mean, p.sd, p.key], axis=1), wire.PREDICTION)
        )

    def ExportModel(
        self, request: surrogate_pb2.ExportModelRequest, context: grpc.ServicerContext
    ) -> surrogate_pb2.ExportModelResponse:
        with self._holding(request.campaign) as landscape:
            tensors, metadata = landscape.export()
        return surrogate_pb2.ExportModelResponse(tensors=tensors, metadata=metadata)

    def ImportModel(
        self, request: surrogate_pb2.ImportModelRequest, context: grpc.ServicerContext
    ) -> surrogate_pb2.ImportModelResponse:
        with self._holding(request.campaign) as landscape:
            landscape.load(request.tensors, request.metadata)
        return surrogate_pb2.ImportModelResponse()

    def _held(self) -> list[_Model]:
        with self._lock:
            return list(self._models.values())

    @contextmanager
    def _holding(self, campaign: str) -> Iterator[EfficiencyLandscape]:
        """The campaign's landscape, for this caller alone."""
        with self._lock:
            model = self._models.get(campaign)
            if model is None:
                raise _unknown(campaign)
            self._models.move_to_end(campaign)
        with model.lock:
            yield model.landscape
            model.bytes_held = model.landscape.bytes_held()
        self._make_room(campaign)

    def _make_room(self, wanted: str) -> None:
        """Bring all models together below the budget, those least recently used first and `wanted` not at all."""
        with self._lock:
            others = [(name, model) for name, model in self._models.items() if name != wanted]
            excess = sum(model.bytes_held for model in self._models.values()) - self._memory_budget
            for name, model in others:
                if excess > 0 and model.lock.acquire(blocking=False):  # one in use is not least recently used
                    try:
                        model.landscape.release()
                        freed = model.bytes_held - model.landscape.bytes_held()
                    finally:
                        model.lock.release()
                    model.bytes_held -= freed
                    excess -= freed
                    log.debug("model released to make room", model=name, bytes=freed)
            for name, model in others:
                if excess > 0 and not model.lock.locked():
                    excess -= self._models.pop(name).bytes_held
                    metrics.FORGOTTEN.inc()
                    log.warning("model forgotten to make room", model=name, budget=self._memory_budget)


def _check_rows(rows: ResultRows) -> None:
    """Refuse rows that no simulator gives: one of them would spoil every prediction.

    Raises:
        InvalidArgument: names the column.
    """
    check_limits(rows["inputs"], "rows.inputs")
    for target in ("margin", "net_efficiency"):
        values = rows["metrics"][:, METRIC[target]]
        if (np.abs(values) > _LARGEST_TARGET).any():
            raise InvalidArgument(f"rows.metrics[{target}]", f"must lie in ±{_LARGEST_TARGET:g}, or be NaN")
    if not np.isin(rows["outcome"], [outcome.value for outcome in ProtocolOutcome]).all():
        raise InvalidArgument("rows.outcome", "must be outcomes of the contract")


def _to_proto(validation: Validation) -> surrogate_pb2.Validation:
    coverage50, coverage90, coverage95 = validation.coverage
    closed_form_rmse, closed_form_brier = validation.closed_form or (None, None)
    return surrogate_pb2.Validation(
        rows=validation.rows,
        rmse=validation.rmse,
        f1=validation.f1,
        brier=validation.brier,
        coverage50=coverage50,
        coverage90=coverage90,
        coverage95=coverage95,
        closed_form_rmse=closed_form_rmse,
        closed_form_brier=closed_form_brier,
    )


def _unknown(campaign: str) -> NotFound:
    return NotFound(f"{campaign or 'campaign'}: no such model; make it and send its rows again")


def serve(settings: SurrogateSettings) -> None:
    """Serve until told to stop.

    Raises:
        InvalidArgument: the device or the address cannot be had.
    """
    torch.set_num_threads(settings.threads)
    device = Device(settings.device, settings.kernel)
    budget = device.total_bytes() // 2 if settings.memory_budget_mib is None else settings.memory_budget_mib * 2**20
    log.info("memory budget", mib=budget // 2**20, device=device.name)
    servicer = SurrogateServicer(device, budget)
    register = surrogate_pb2_grpc.add_SurrogateServiceServicer_to_server
    rpc.run(settings, [rpc.Service(SERVICE_NAME, register, servicer)])
