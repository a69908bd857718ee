"""The other services as the orchestrator sees them: typed calls, NumPy in and out."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray

from caligo import rpc, tracing, wire
from caligo.discrepancy import PROFILE_COLUMNS, PROFILE_STEPS
from caligo.errors import NotFound, Unreachable
from caligo.instrumentation import Outgoing
from caligo.phases import Phase
from caligo.results import ResultRows
from caligo.space import DIMENSIONS
from caligo.spec import CampaignSpec, to_proto
from caligo.tls import Tls
from caligo.v1 import (
    sampler_pb2,
    sampler_pb2_grpc,
    surrogate_pb2,
    surrogate_pb2_grpc,
    types_pb2,
)

# Messages of 256 KiB to 1 MiB are the quickest: rows of a design are 48 bytes, those with results 154.
_DESIGN_BLOCK: Final = 8192
_OBSERVE_BLOCK: Final = 4096
_LOOK_SECONDS: Final = 0.1
"""How often a wait looks up."""


@dataclasses.dataclass(frozen=True)
class DesignRows:
    """A chunk of a design: index int64 [n], inputs float32 [n, 9], feasible bool [n]."""

    index: NDArray[np.int64]
    inputs: NDArray[np.float32]
    feasible: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Proposed:
    """A joint batch.

    Attributes:
        inputs: float32 [q, 9].
        posterior: mean and standard deviation of the target there, float32 [q, 2].
        screening: the guardrail's verdict, codes of `caligo.screening.Verdict`, uint8 [q].
        state: of the model that proposed it: tensors as safetensors bytes, the rest as JSON text.
    """

    inputs: NDArray[np.float32]
    posterior: NDArray[np.float32]
    screening: NDArray[np.uint8]
    state: tuple[bytes, str]


@dataclasses.dataclass(frozen=True)
class Explained:
    """What a fitted surrogate says of the physics.

    Attributes:
        relevance: one a column of the inputs.
        discrepancy: None where the surrogate started from nothing.
        profiles: the difference along each column, float32 [9, 17, 3]; None in the same case.
    """

    relevance: list[surrogate_pb2.Relevance]
    discrepancy: surrogate_pb2.Discrepancy | None
    profiles: NDArray[np.float32] | None


class ServiceLostError(Unreachable):
    """A service went away in the middle of a call; what it held can be made again from the journal."""


class ModelLostError(ServiceLostError):
    """The surrogate does not know the campaign's model any more: it was restarted, or made room for others."""


class _Remote:
    def __init__(self, address: str, tls: Tls | None) -> None:
        self._address = address
        self._channel = rpc.channel(address, tls, interceptors=[Outgoing()])
        self._lock = threading.Lock()
        self._calls: set[grpc.Call] = set()
        self._is_given_up = False

    def await_ready(self, patience_seconds: float) -> None:
        """Wait until the service answers.

        Raises:
            Unreachable: it did not within `patience_seconds`.
        """
        rpc.wait_ready(self._channel, self._address, patience_seconds, self._begun)

    def give_up(self) -> None:
        """End the calls under way and those to come, from another thread; they raise whatever comes of it."""
        with self._lock:
            self._is_given_up = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def close(self) -> None:
        self._channel.close()

    def _ask(self, method: Any, request: Any, seconds: float | None = None) -> Any:
        """The answer to a request, or to a stream of requests."""
        with self._calling():
            return self._begun(method.future(request, timeout=seconds)).result()

    def _begun(self, call: Any) -> Any:
        """A call that `give_up` ends."""
        with self._lock:
            self._calls.add(call)
            is_given_up = self._is_given_up
        call.add_done_callback(self._calls.discard)
        if is_given_up:
            call.cancel()
        return call

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        try:
            with rpc.calling(self._address):
                yield
        except Unreachable as error:
            raise ServiceLostError(str(error)) from None


class Sampler(_Remote):
    """Designs with their feasibility. Each call may raise `ServiceLostError`."""

    def __init__(self, address: str, tls: Tls | None = None) -> None:
        super().__init__(address, tls)
        self._stub = sampler_pb2_grpc.SamplerServiceStub(self._channel)

    def design(
        self, spec: CampaignSpec, seed: int, size: int, start: int, count: int, first_row: int | None = None
    ) -> Iterator[DesignRows]:
        """Rows [start, start + count) of the design of `size` rows, chunk by chunk.

        first_row: index of the design's row 0 among the warm-up's rows; None where they are not to be evaluated.
        """
        # A call a chunk: one that waits until its rows are simulated looks like one of somebody who never reads.
        for first in range(start, start + count, _DESIGN_BLOCK):
            request = sampler_pb2.StreamDesignRequest(
                space=to_proto(spec.space, types_pb2.SpaceSpec),
                physics=to_proto(spec.physics, types_pb2.PhysicsSpec),
                seed=seed,
                size=size,
                start=first,
                count=min(_DESIGN_BLOCK, start + count - first),
                chunk_rows=_DESIGN_BLOCK,
            )
            about = contextlib.nullcontext() if first_row is None else tracing.working_on(Phase.LHS, first_row)
            with self._calling():
                with about:
                    responses = self._begun(self._stub.StreamDesign(request))
                (response,) = responses
                index, inputs = wire.decode_design(response.rows)
                margin = wire.decode(response.feasibility_margin, wire.FEASIBILITY, len(index))
            yield DesignRows(index, inputs, margin > 0)

    def feasible(self, spec: CampaignSpec, inputs: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which rows [n, 9] the closed form leaves some hope of a key, bool [n]."""
        request = sampler_pb2.CheckFeasibilityRequest(
            physics=to_proto(spec.physics, types_pb2.PhysicsSpec), inputs=wire.encode(inputs, wire.INPUTS)
        )
        with self._calling():
            (response,) = self._begun(self._stub.CheckFeasibility(iter([request])))
            return wire.decode(response.feasibility_margin, wire.FEASIBILITY, len(inputs)) > 0


class Surrogate(_Remote):
    """The surrogate of one campaign. Each call may raise `ServiceLostError`, a `ModelLostError` above all."""

    def __init__(self, address: str, campaign: str, tls: Tls | None = None) -> None:
        super().__init__(address, tls)
        self._campaign = campaign
        self._stub = surrogate_pb2_grpc.SurrogateServiceStub(self._channel)

    def create(self, spec: CampaignSpec) -> None:
        """Make the model, empty; one that is there stays."""
        request = surrogate_pb2.CreateModelRequest(
            campaign=self._campaign,
            space=to_proto(spec.space, types_pb2.SpaceSpec),
            surrogate=to_proto(spec.surrogate, surrogate_pb2.SurrogateSpec),
            guardrail=to_proto(spec.guardrail, surrogate_pb2.GuardrailSpec),
            physics=to_proto(spec.physics, types_pb2.PhysicsSpec),
            protocol=to_proto(spec.protocol, types_pb2.ProtocolSpec),
            seed=spec.seed,
        )
        self._ask(self._stub.CreateModel, request)

    def observe(self, phase: Phase, rows: ResultRows, audited: NDArray[np.bool_] | None = None) -> None:
        """Add result rows; again is harmless.

        Args:
            audited: bool [n], rows that the guardrail would have skipped.
        """
        codes = np.zeros(len(rows), dtype=np.uint8) if audited is None else audited.astype(np.uint8)

        def requests() -> Iterator[surrogate_pb2.ObserveRequest]:
            for start in range(0, len(rows), _OBSERVE_BLOCK):
                block = slice(start, start + _OBSERVE_BLOCK)
                yield surrogate_pb2.ObserveRequest(
                    campaign=self._campaign,
                    phase=wire.encode_phase(phase),
                    rows=wire.encode_rows(rows[block]),
                    audited=wire.encode(codes[block], wire.CODE) if codes[block].any() else None,
                )

        with tracing.working_on(phase):
            self._ask(self._stub.Observe, requests())

    def fit(self, holdout_fraction: float, folds: int) -> Iterator[surrogate_pb2.FitModelResponse]:
        """Train, validate and cross-validate; progress messages, the summary last."""
        request = surrogate_pb2.FitModelRequest(campaign=self._campaign, holdout_fraction=holdout_fraction, folds=folds)
        with self._calling():
            call = self._begun(self._stub.FitModel(request))
            try:
                yield from call
            finally:
                call.cancel()

    def begin_fit(self, holdout_fraction: float) -> BackgroundFit:
        """Train on the rows that the model holds now, while it stays as it is and answers other calls."""
        request = surrogate_pb2.FitModelRequest(
            campaign=self._campaign, holdout_fraction=holdout_fraction, keep_current=True
        )
        call = self._begun(self._stub.FitModel(request))
        call.initial_metadata()  # come when the rows have been taken
        return BackgroundFit(self._responses(call), call.cancel)

    def _responses(self, call: Iterable[surrogate_pb2.FitModelResponse]) -> Iterator[surrogate_pb2.FitModelResponse]:
        with self._calling():
            yield from call

    def propose(self, batch: int, size: int, pending: NDArray[np.float32]) -> Proposed:
        """The next joint batch of `size` candidates."""
        request = surrogate_pb2.ProposeBatchRequest(
            campaign=self._campaign, batch=batch, size=size, pending=wire.encode(pending, wire.INPUTS)
        )
        response = self._ask(self._stub.ProposeBatch, request)
        return Proposed(
            wire.decode_inputs(response.inputs),
            wire.decode(response.posterior, wire.POSTERIOR, size, 2),
            wire.decode(response.skip, wire.CODE, size),
            (response.tensors, response.metadata),
        )

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean, standard deviation and probability of a key, float32 [n, 3].

        Raises:
            FailedPrecondition: the model is not fitted.
        """
        request = surrogate_pb2.PredictRowsRequest(campaign=self._campaign, inputs=wire.encode(inputs, wire.INPUTS))
        return wire.decode(self._ask(self._stub.PredictRows, request).prediction, wire.PREDICTION, len(inputs), 3)

    def boundary(self, *, sides_only: bool = False) -> tuple[NDArray[np.bool_], float | None]:
        """Where of a fixed Sobol set a key is likelier than none, bool [m], and the expected Brier score there."""
        request = surrogate_pb2.GetBoundaryRequest(campaign=self._campaign, sides_only=sides_only)
        response = self._ask(self._stub.GetBoundary, request)
        sides = wire.decode(response.sides, wire.CODE, -1).astype(np.bool_)
        return sides, response.expected_brier if response.HasField("expected_brier") else None

    def describe(self) -> surrogate_pb2.GetModelResponse:
        found: surrogate_pb2.GetModelResponse = self._ask(
            self._stub.GetModel, surrogate_pb2.GetModelRequest(campaign=self._campaign)
        )
        return found

    def explain(self) -> Explained:
        """What decides the target, and where the simulator differs from the closed form; takes seconds."""
        response = self._ask(self._stub.ExplainModel, surrogate_pb2.ExplainModelRequest(campaign=self._campaign))
        profiles = None
        if response.HasField("discrepancy"):
            shape = DIMENSIONS, PROFILE_STEPS, len(PROFILE_COLUMNS)
            profiles = wire.decode(response.profiles, wire.PROFILES, *shape)
        return Explained(
            list(response.relevance), response.discrepancy if response.HasField("discrepancy") else None, profiles
        )

    def export(self) -> tuple[bytes, str]:
        """The fitted state: tensors as safetensors bytes, the rest as JSON text."""
        response = self._ask(self._stub.ExportModel, surrogate_pb2.ExportModelRequest(campaign=self._campaign))
        return response.tensors, response.metadata

    def restore(self, tensors: bytes, metadata: str) -> None:
        request = surrogate_pb2.ImportModelRequest(campaign=self._campaign, tensors=tensors, metadata=metadata)
        self._ask(self._stub.ImportModel, request)

    def delete(self, seconds: float | None = None) -> None:
        """Forget the model, if it is there; within a time, where one is given."""
        with contextlib.suppress(ModelLostError):
            self._ask(self._stub.DeleteModel, surrogate_pb2.DeleteModelRequest(campaign=self._campaign), seconds)

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        try:
            with super()._calling():
                yield
        except NotFound as error:
            raise ModelLostError(str(error)) from None


class BackgroundFit:
    """A fit that runs beside its campaign."""

    def __init__(self, responses: Iterator[surrogate_pb2.FitModelResponse], cancel: Callable[[], object]) -> None:
        self._cancel = cancel
        self._ended: Future[surrogate_pb2.FitSummary] = Future()
        threading.Thread(target=self._read, args=(responses,), name="background-fit", daemon=True).start()

    def _read(self, responses: Iterator[surrogate_pb2.FitModelResponse]) -> None:
        try:
            *_, last = responses
            self._ended.set_result(last.summary)
        except Exception as error:  # handed on to whoever waits for the fit
            self._ended.set_exception(error)

    def wait(self, look_up: Callable[[], None]) -> surrogate_pb2.FitSummary:
        """How the fit ended; `look_up` is called again and again until then and may raise.

        Raises:
            ModelLostError: the surrogate has lost the model.
            CaligoError: the fit failed.
        """
        while True:
            look_up()
            try:
                return self._ended.result(_LOOK_SECONDS)
            except TimeoutError:
                continue

    def cancel(self) -> None:
        """Give it up; nothing happens where it has ended."""
        self._cancel()
