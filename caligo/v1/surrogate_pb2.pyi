from caligo.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SurrogateSpec(_message.Message):
    __slots__ = ("target", "solver", "training_steps", "learning_rate", "acquisition", "straddle_weight", "refit_every", "training_rows", "prior")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SOLVER_FIELD_NUMBER: _ClassVar[int]
    TRAINING_STEPS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    ACQUISITION_FIELD_NUMBER: _ClassVar[int]
    STRADDLE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    REFIT_EVERY_FIELD_NUMBER: _ClassVar[int]
    TRAINING_ROWS_FIELD_NUMBER: _ClassVar[int]
    PRIOR_FIELD_NUMBER: _ClassVar[int]
    target: str
    solver: str
    training_steps: int
    learning_rate: float
    acquisition: str
    straddle_weight: float
    refit_every: int
    training_rows: int
    prior: str
    def __init__(self, target: _Optional[str] = ..., solver: _Optional[str] = ..., training_steps: _Optional[int] = ..., learning_rate: _Optional[float] = ..., acquisition: _Optional[str] = ..., straddle_weight: _Optional[float] = ..., refit_every: _Optional[int] = ..., training_rows: _Optional[int] = ..., prior: _Optional[str] = ...) -> None: ...

class GuardrailSpec(_message.Message):
    __slots__ = ("enabled", "threshold", "audit_fraction", "classifier", "max_false_skip_rate")
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FRACTION_FIELD_NUMBER: _ClassVar[int]
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    MAX_FALSE_SKIP_RATE_FIELD_NUMBER: _ClassVar[int]
    enabled: bool
    threshold: float
    audit_fraction: float
    classifier: str
    max_false_skip_rate: float
    def __init__(self, enabled: _Optional[bool] = ..., threshold: _Optional[float] = ..., audit_fraction: _Optional[float] = ..., classifier: _Optional[str] = ..., max_false_skip_rate: _Optional[float] = ...) -> None: ...

class CreateModelRequest(_message.Message):
    __slots__ = ("campaign", "space", "surrogate", "guardrail", "seed", "physics", "protocol")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    SURROGATE_FIELD_NUMBER: _ClassVar[int]
    GUARDRAIL_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PHYSICS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    space: _types_pb2.SpaceSpec
    surrogate: SurrogateSpec
    guardrail: GuardrailSpec
    seed: int
    physics: _types_pb2.PhysicsSpec
    protocol: _types_pb2.ProtocolSpec
    def __init__(self, campaign: _Optional[str] = ..., space: _Optional[_Union[_types_pb2.SpaceSpec, _Mapping]] = ..., surrogate: _Optional[_Union[SurrogateSpec, _Mapping]] = ..., guardrail: _Optional[_Union[GuardrailSpec, _Mapping]] = ..., seed: _Optional[int] = ..., physics: _Optional[_Union[_types_pb2.PhysicsSpec, _Mapping]] = ..., protocol: _Optional[_Union[_types_pb2.ProtocolSpec, _Mapping]] = ...) -> None: ...

class CreateModelResponse(_message.Message):
    __slots__ = ("rows_held",)
    ROWS_HELD_FIELD_NUMBER: _ClassVar[int]
    rows_held: int
    def __init__(self, rows_held: _Optional[int] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("campaign",)
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    def __init__(self, campaign: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("rows_held", "fitted", "length_scales", "noise", "secure_fraction", "secure_fraction_error", "guardrail_active", "device", "solver", "guardrail", "health", "bytes_held", "prior")
    ROWS_HELD_FIELD_NUMBER: _ClassVar[int]
    FITTED_FIELD_NUMBER: _ClassVar[int]
    LENGTH_SCALES_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    SECURE_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SECURE_FRACTION_ERROR_FIELD_NUMBER: _ClassVar[int]
    GUARDRAIL_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SOLVER_FIELD_NUMBER: _ClassVar[int]
    GUARDRAIL_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    BYTES_HELD_FIELD_NUMBER: _ClassVar[int]
    PRIOR_FIELD_NUMBER: _ClassVar[int]
    rows_held: int
    fitted: bool
    length_scales: _types_pb2.Tensor
    noise: float
    secure_fraction: float
    secure_fraction_error: float
    guardrail_active: bool
    device: str
    solver: str
    guardrail: GuardrailState
    health: SolverHealth
    bytes_held: int
    prior: str
    def __init__(self, rows_held: _Optional[int] = ..., fitted: _Optional[bool] = ..., length_scales: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., noise: _Optional[float] = ..., secure_fraction: _Optional[float] = ..., secure_fraction_error: _Optional[float] = ..., guardrail_active: _Optional[bool] = ..., device: _Optional[str] = ..., solver: _Optional[str] = ..., guardrail: _Optional[_Union[GuardrailState, _Mapping]] = ..., health: _Optional[_Union[SolverHealth, _Mapping]] = ..., bytes_held: _Optional[int] = ..., prior: _Optional[str] = ...) -> None: ...

class GuardrailState(_message.Message):
    __slots__ = ("active", "threshold", "audits", "false_skips", "false_skip_bound", "evidence", "false_audits", "mode", "table_refused")
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    AUDITS_FIELD_NUMBER: _ClassVar[int]
    FALSE_SKIPS_FIELD_NUMBER: _ClassVar[int]
    FALSE_SKIP_BOUND_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    FALSE_AUDITS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    TABLE_REFUSED_FIELD_NUMBER: _ClassVar[int]
    active: bool
    threshold: float
    audits: int
    false_skips: int
    false_skip_bound: float
    evidence: int
    false_audits: int
    mode: str
    table_refused: str
    def __init__(self, active: _Optional[bool] = ..., threshold: _Optional[float] = ..., audits: _Optional[int] = ..., false_skips: _Optional[int] = ..., false_skip_bound: _Optional[float] = ..., evidence: _Optional[int] = ..., false_audits: _Optional[int] = ..., mode: _Optional[str] = ..., table_refused: _Optional[str] = ...) -> None: ...

class SolverHealth(_message.Message):
    __slots__ = ("detections", "escalations", "failures", "halvings")
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    ESCALATIONS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    HALVINGS_FIELD_NUMBER: _ClassVar[int]
    detections: int
    escalations: int
    failures: int
    halvings: int
    def __init__(self, detections: _Optional[int] = ..., escalations: _Optional[int] = ..., failures: _Optional[int] = ..., halvings: _Optional[int] = ...) -> None: ...

class GetBoundaryRequest(_message.Message):
    __slots__ = ("campaign", "sides_only")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    SIDES_ONLY_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    sides_only: bool
    def __init__(self, campaign: _Optional[str] = ..., sides_only: _Optional[bool] = ...) -> None: ...

class GetBoundaryResponse(_message.Message):
    __slots__ = ("sides", "expected_brier")
    SIDES_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_BRIER_FIELD_NUMBER: _ClassVar[int]
    sides: _types_pb2.Tensor
    expected_brier: float
    def __init__(self, sides: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., expected_brier: _Optional[float] = ...) -> None: ...

class ExplainModelRequest(_message.Message):
    __slots__ = ("campaign",)
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    def __init__(self, campaign: _Optional[str] = ...) -> None: ...

class ExplainModelResponse(_message.Message):
    __slots__ = ("relevance", "discrepancy", "profiles")
    RELEVANCE_FIELD_NUMBER: _ClassVar[int]
    DISCREPANCY_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    relevance: _containers.RepeatedCompositeFieldContainer[Relevance]
    discrepancy: Discrepancy
    profiles: _types_pb2.Tensor
    def __init__(self, relevance: _Optional[_Iterable[_Union[Relevance, _Mapping]]] = ..., discrepancy: _Optional[_Union[Discrepancy, _Mapping]] = ..., profiles: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ...) -> None: ...

class Relevance(_message.Message):
    __slots__ = ("parameter", "first_order", "first_order_error", "total", "total_error")
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    FIRST_ORDER_FIELD_NUMBER: _ClassVar[int]
    FIRST_ORDER_ERROR_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    TOTAL_ERROR_FIELD_NUMBER: _ClassVar[int]
    parameter: str
    first_order: float
    first_order_error: float
    total: float
    total_error: float
    def __init__(self, parameter: _Optional[str] = ..., first_order: _Optional[float] = ..., first_order_error: _Optional[float] = ..., total: _Optional[float] = ..., total_error: _Optional[float] = ...) -> None: ...

class Discrepancy(_message.Message):
    __slots__ = ("verdict", "rows", "p_value", "bound", "point", "difference", "deviation", "parameter")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    POINT_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    verdict: str
    rows: int
    p_value: float
    bound: float
    point: _containers.RepeatedScalarFieldContainer[float]
    difference: float
    deviation: float
    parameter: str
    def __init__(self, verdict: _Optional[str] = ..., rows: _Optional[int] = ..., p_value: _Optional[float] = ..., bound: _Optional[float] = ..., point: _Optional[_Iterable[float]] = ..., difference: _Optional[float] = ..., deviation: _Optional[float] = ..., parameter: _Optional[str] = ...) -> None: ...

class DeleteModelRequest(_message.Message):
    __slots__ = ("campaign",)
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    def __init__(self, campaign: _Optional[str] = ...) -> None: ...

class DeleteModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ObserveRequest(_message.Message):
    __slots__ = ("campaign", "phase", "rows", "audited")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    AUDITED_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    phase: _types_pb2.Phase
    rows: _types_pb2.ResultBatch
    audited: _types_pb2.Tensor
    def __init__(self, campaign: _Optional[str] = ..., phase: _Optional[_Union[_types_pb2.Phase, str]] = ..., rows: _Optional[_Union[_types_pb2.ResultBatch, _Mapping]] = ..., audited: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ...) -> None: ...

class ObserveResponse(_message.Message):
    __slots__ = ("rows_held",)
    ROWS_HELD_FIELD_NUMBER: _ClassVar[int]
    rows_held: int
    def __init__(self, rows_held: _Optional[int] = ...) -> None: ...

class FitModelRequest(_message.Message):
    __slots__ = ("campaign", "holdout_fraction", "keep_current", "folds")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_FRACTION_FIELD_NUMBER: _ClassVar[int]
    KEEP_CURRENT_FIELD_NUMBER: _ClassVar[int]
    FOLDS_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    holdout_fraction: float
    keep_current: bool
    folds: int
    def __init__(self, campaign: _Optional[str] = ..., holdout_fraction: _Optional[float] = ..., keep_current: _Optional[bool] = ..., folds: _Optional[int] = ...) -> None: ...

class FitProgress(_message.Message):
    __slots__ = ("step", "steps", "loss")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    step: int
    steps: int
    loss: float
    def __init__(self, step: _Optional[int] = ..., steps: _Optional[int] = ..., loss: _Optional[float] = ...) -> None: ...

class Validation(_message.Message):
    __slots__ = ("rows", "rmse", "f1", "brier", "coverage50", "coverage90", "coverage95", "closed_form_rmse", "closed_form_brier")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    RMSE_FIELD_NUMBER: _ClassVar[int]
    F1_FIELD_NUMBER: _ClassVar[int]
    BRIER_FIELD_NUMBER: _ClassVar[int]
    COVERAGE50_FIELD_NUMBER: _ClassVar[int]
    COVERAGE90_FIELD_NUMBER: _ClassVar[int]
    COVERAGE95_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FORM_RMSE_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FORM_BRIER_FIELD_NUMBER: _ClassVar[int]
    rows: int
    rmse: float
    f1: float
    brier: float
    coverage50: float
    coverage90: float
    coverage95: float
    closed_form_rmse: float
    closed_form_brier: float
    def __init__(self, rows: _Optional[int] = ..., rmse: _Optional[float] = ..., f1: _Optional[float] = ..., brier: _Optional[float] = ..., coverage50: _Optional[float] = ..., coverage90: _Optional[float] = ..., coverage95: _Optional[float] = ..., closed_form_rmse: _Optional[float] = ..., closed_form_brier: _Optional[float] = ...) -> None: ...

class FitSummary(_message.Message):
    __slots__ = ("rows", "loss", "steps", "device", "solver", "validation", "tensors", "metadata", "secure_fraction", "secure_fraction_error", "cross_validation")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SOLVER_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SECURE_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SECURE_FRACTION_ERROR_FIELD_NUMBER: _ClassVar[int]
    CROSS_VALIDATION_FIELD_NUMBER: _ClassVar[int]
    rows: int
    loss: float
    steps: int
    device: str
    solver: str
    validation: Validation
    tensors: bytes
    metadata: str
    secure_fraction: float
    secure_fraction_error: float
    cross_validation: Validation
    def __init__(self, rows: _Optional[int] = ..., loss: _Optional[float] = ..., steps: _Optional[int] = ..., device: _Optional[str] = ..., solver: _Optional[str] = ..., validation: _Optional[_Union[Validation, _Mapping]] = ..., tensors: _Optional[bytes] = ..., metadata: _Optional[str] = ..., secure_fraction: _Optional[float] = ..., secure_fraction_error: _Optional[float] = ..., cross_validation: _Optional[_Union[Validation, _Mapping]] = ...) -> None: ...

class FitModelResponse(_message.Message):
    __slots__ = ("progress", "summary")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    progress: FitProgress
    summary: FitSummary
    def __init__(self, progress: _Optional[_Union[FitProgress, _Mapping]] = ..., summary: _Optional[_Union[FitSummary, _Mapping]] = ...) -> None: ...

class ProposeBatchRequest(_message.Message):
    __slots__ = ("campaign", "batch", "size", "pending")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    batch: int
    size: int
    pending: _types_pb2.Tensor
    def __init__(self, campaign: _Optional[str] = ..., batch: _Optional[int] = ..., size: _Optional[int] = ..., pending: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ...) -> None: ...

class ProposeBatchResponse(_message.Message):
    __slots__ = ("inputs", "posterior", "skip", "tensors", "metadata")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    POSTERIOR_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    inputs: _types_pb2.Tensor
    posterior: _types_pb2.Tensor
    skip: _types_pb2.Tensor
    tensors: bytes
    metadata: str
    def __init__(self, inputs: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., posterior: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., skip: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., tensors: _Optional[bytes] = ..., metadata: _Optional[str] = ...) -> None: ...

class ScreenRowsRequest(_message.Message):
    __slots__ = ("campaign", "rows")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    rows: _types_pb2.DesignBatch
    def __init__(self, campaign: _Optional[str] = ..., rows: _Optional[_Union[_types_pb2.DesignBatch, _Mapping]] = ...) -> None: ...

class ScreenRowsResponse(_message.Message):
    __slots__ = ("failure_probability", "skip")
    FAILURE_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    failure_probability: _types_pb2.Tensor
    skip: _types_pb2.Tensor
    def __init__(self, failure_probability: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., skip: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ...) -> None: ...

class PredictRowsRequest(_message.Message):
    __slots__ = ("campaign", "inputs")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    inputs: _types_pb2.Tensor
    def __init__(self, campaign: _Optional[str] = ..., inputs: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ...) -> None: ...

class PredictRowsResponse(_message.Message):
    __slots__ = ("prediction",)
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    prediction: _types_pb2.Tensor
    def __init__(self, prediction: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ...) -> None: ...

class ExportModelRequest(_message.Message):
    __slots__ = ("campaign",)
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    def __init__(self, campaign: _Optional[str] = ...) -> None: ...

class ExportModelResponse(_message.Message):
    __slots__ = ("tensors", "metadata")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    tensors: bytes
    metadata: str
    def __init__(self, tensors: _Optional[bytes] = ..., metadata: _Optional[str] = ...) -> None: ...

class ImportModelRequest(_message.Message):
    __slots__ = ("campaign", "tensors", "metadata")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    tensors: bytes
    metadata: str
    def __init__(self, campaign: _Optional[str] = ..., tensors: _Optional[bytes] = ..., metadata: _Optional[str] = ...) -> None: ...

class ImportModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
