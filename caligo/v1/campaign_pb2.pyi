import datetime

from caligo.v1 import surrogate_pb2 as _surrogate_pb2
from caligo.v1 import types_pb2 as _types_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CampaignState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAMPAIGN_STATE_UNSPECIFIED: _ClassVar[CampaignState]
    CAMPAIGN_STATE_QUEUED: _ClassVar[CampaignState]
    CAMPAIGN_STATE_RUNNING: _ClassVar[CampaignState]
    CAMPAIGN_STATE_PAUSED: _ClassVar[CampaignState]
    CAMPAIGN_STATE_SUCCEEDED: _ClassVar[CampaignState]
    CAMPAIGN_STATE_FAILED: _ClassVar[CampaignState]
    CAMPAIGN_STATE_CANCELLED: _ClassVar[CampaignState]

class CampaignWish(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAMPAIGN_WISH_UNSPECIFIED: _ClassVar[CampaignWish]
    CAMPAIGN_WISH_RUN: _ClassVar[CampaignWish]
    CAMPAIGN_WISH_PAUSE: _ClassVar[CampaignWish]
    CAMPAIGN_WISH_CANCEL: _ClassVar[CampaignWish]
    CAMPAIGN_WISH_DELETE: _ClassVar[CampaignWish]
CAMPAIGN_STATE_UNSPECIFIED: CampaignState
CAMPAIGN_STATE_QUEUED: CampaignState
CAMPAIGN_STATE_RUNNING: CampaignState
CAMPAIGN_STATE_PAUSED: CampaignState
CAMPAIGN_STATE_SUCCEEDED: CampaignState
CAMPAIGN_STATE_FAILED: CampaignState
CAMPAIGN_STATE_CANCELLED: CampaignState
CAMPAIGN_WISH_UNSPECIFIED: CampaignWish
CAMPAIGN_WISH_RUN: CampaignWish
CAMPAIGN_WISH_PAUSE: CampaignWish
CAMPAIGN_WISH_CANCEL: CampaignWish
CAMPAIGN_WISH_DELETE: CampaignWish

class LhsSpec(_message.Message):
    __slots__ = ("samples", "skip")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    samples: int
    skip: bool
    def __init__(self, samples: _Optional[int] = ..., skip: _Optional[bool] = ...) -> None: ...

class TrainingSpec(_message.Message):
    __slots__ = ("holdout_fraction", "skip", "folds")
    HOLDOUT_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    FOLDS_FIELD_NUMBER: _ClassVar[int]
    holdout_fraction: float
    skip: bool
    folds: int
    def __init__(self, holdout_fraction: _Optional[float] = ..., skip: _Optional[bool] = ..., folds: _Optional[int] = ...) -> None: ...

class ConvergenceSpec(_message.Message):
    __slots__ = ("boundary_tolerance", "batches", "brier_target")
    BOUNDARY_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    BRIER_TARGET_FIELD_NUMBER: _ClassVar[int]
    boundary_tolerance: float
    batches: int
    brier_target: float
    def __init__(self, boundary_tolerance: _Optional[float] = ..., batches: _Optional[int] = ..., brier_target: _Optional[float] = ...) -> None: ...

class ActiveSpec(_message.Message):
    __slots__ = ("samples", "batch_size", "lookahead", "skip", "convergence")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    LOOKAHEAD_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    CONVERGENCE_FIELD_NUMBER: _ClassVar[int]
    samples: int
    batch_size: int
    lookahead: int
    skip: bool
    convergence: ConvergenceSpec
    def __init__(self, samples: _Optional[int] = ..., batch_size: _Optional[int] = ..., lookahead: _Optional[int] = ..., skip: _Optional[bool] = ..., convergence: _Optional[_Union[ConvergenceSpec, _Mapping]] = ...) -> None: ...

class CampaignSpec(_message.Message):
    __slots__ = ("name", "seed", "space", "physics", "protocol", "surrogate", "guardrail", "lhs", "training", "active", "base")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    PHYSICS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SURROGATE_FIELD_NUMBER: _ClassVar[int]
    GUARDRAIL_FIELD_NUMBER: _ClassVar[int]
    LHS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    name: str
    seed: int
    space: _types_pb2.SpaceSpec
    physics: _types_pb2.PhysicsSpec
    protocol: _types_pb2.ProtocolSpec
    surrogate: _surrogate_pb2.SurrogateSpec
    guardrail: _surrogate_pb2.GuardrailSpec
    lhs: LhsSpec
    training: TrainingSpec
    active: ActiveSpec
    base: str
    def __init__(self, name: _Optional[str] = ..., seed: _Optional[int] = ..., space: _Optional[_Union[_types_pb2.SpaceSpec, _Mapping]] = ..., physics: _Optional[_Union[_types_pb2.PhysicsSpec, _Mapping]] = ..., protocol: _Optional[_Union[_types_pb2.ProtocolSpec, _Mapping]] = ..., surrogate: _Optional[_Union[_surrogate_pb2.SurrogateSpec, _Mapping]] = ..., guardrail: _Optional[_Union[_surrogate_pb2.GuardrailSpec, _Mapping]] = ..., lhs: _Optional[_Union[LhsSpec, _Mapping]] = ..., training: _Optional[_Union[TrainingSpec, _Mapping]] = ..., active: _Optional[_Union[ActiveSpec, _Mapping]] = ..., base: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("phase", "done", "total", "simulated", "succeeded", "failed", "skipped", "rows_per_second", "secure_fraction")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SECURE_FRACTION_FIELD_NUMBER: _ClassVar[int]
    phase: _types_pb2.Phase
    done: int
    total: int
    simulated: int
    succeeded: int
    failed: int
    skipped: int
    rows_per_second: float
    secure_fraction: float
    def __init__(self, phase: _Optional[_Union[_types_pb2.Phase, str]] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., simulated: _Optional[int] = ..., succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., skipped: _Optional[int] = ..., rows_per_second: _Optional[float] = ..., secure_fraction: _Optional[float] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Campaign(_message.Message):
    __slots__ = ("name", "spec", "state", "progress", "priority", "create_time", "update_time", "problem", "findings", "owner", "wanted")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: CampaignSpec
    state: CampaignState
    progress: Progress
    priority: int
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    problem: Problem
    findings: Findings
    owner: str
    wanted: CampaignWish
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[CampaignSpec, _Mapping]] = ..., state: _Optional[_Union[CampaignState, str]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., priority: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., problem: _Optional[_Union[Problem, _Mapping]] = ..., findings: _Optional[_Union[Findings, _Mapping]] = ..., owner: _Optional[str] = ..., wanted: _Optional[_Union[CampaignWish, str]] = ...) -> None: ...

class Findings(_message.Message):
    __slots__ = ("rows", "simulated", "skipped_infeasible", "skipped_predicted", "succeeded", "best_efficiency", "median_efficiency", "relevant_parameters", "length_scales", "secure_fraction", "secure_fraction_error", "validation", "faults", "calibration", "guardrail", "convergence", "cross_validation", "prior", "discrepancy", "relevance", "seconds_simulated", "seconds_saved", "seconds_saved_error")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_INFEASIBLE_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_PREDICTED_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    BEST_EFFICIENCY_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_EFFICIENCY_FIELD_NUMBER: _ClassVar[int]
    RELEVANT_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_SCALES_FIELD_NUMBER: _ClassVar[int]
    SECURE_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SECURE_FRACTION_ERROR_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    GUARDRAIL_FIELD_NUMBER: _ClassVar[int]
    CONVERGENCE_FIELD_NUMBER: _ClassVar[int]
    CROSS_VALIDATION_FIELD_NUMBER: _ClassVar[int]
    PRIOR_FIELD_NUMBER: _ClassVar[int]
    DISCREPANCY_FIELD_NUMBER: _ClassVar[int]
    RELEVANCE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_SIMULATED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_SAVED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_SAVED_ERROR_FIELD_NUMBER: _ClassVar[int]
    rows: int
    simulated: int
    skipped_infeasible: int
    skipped_predicted: int
    succeeded: int
    best_efficiency: float
    median_efficiency: float
    relevant_parameters: _containers.RepeatedScalarFieldContainer[str]
    length_scales: _containers.RepeatedScalarFieldContainer[float]
    secure_fraction: float
    secure_fraction_error: float
    validation: _surrogate_pb2.Validation
    faults: int
    calibration: Calibration
    guardrail: _surrogate_pb2.GuardrailState
    convergence: Convergence
    cross_validation: _surrogate_pb2.Validation
    prior: str
    discrepancy: _surrogate_pb2.Discrepancy
    relevance: _containers.RepeatedCompositeFieldContainer[_surrogate_pb2.Relevance]
    seconds_simulated: float
    seconds_saved: float
    seconds_saved_error: float
    def __init__(self, rows: _Optional[int] = ..., simulated: _Optional[int] = ..., skipped_infeasible: _Optional[int] = ..., skipped_predicted: _Optional[int] = ..., succeeded: _Optional[int] = ..., best_efficiency: _Optional[float] = ..., median_efficiency: _Optional[float] = ..., relevant_parameters: _Optional[_Iterable[str]] = ..., length_scales: _Optional[_Iterable[float]] = ..., secure_fraction: _Optional[float] = ..., secure_fraction_error: _Optional[float] = ..., validation: _Optional[_Union[_surrogate_pb2.Validation, _Mapping]] = ..., faults: _Optional[int] = ..., calibration: _Optional[_Union[Calibration, _Mapping]] = ..., guardrail: _Optional[_Union[_surrogate_pb2.GuardrailState, _Mapping]] = ..., convergence: _Optional[_Union[Convergence, _Mapping]] = ..., cross_validation: _Optional[_Union[_surrogate_pb2.Validation, _Mapping]] = ..., prior: _Optional[str] = ..., discrepancy: _Optional[_Union[_surrogate_pb2.Discrepancy, _Mapping]] = ..., relevance: _Optional[_Iterable[_Union[_surrogate_pb2.Relevance, _Mapping]]] = ..., seconds_simulated: _Optional[float] = ..., seconds_saved: _Optional[float] = ..., seconds_saved_error: _Optional[float] = ...) -> None: ...

class Convergence(_message.Message):
    __slots__ = ("batches", "converged", "changed_share", "expected_brier")
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    CONVERGED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_SHARE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_BRIER_FIELD_NUMBER: _ClassVar[int]
    batches: int
    converged: bool
    changed_share: float
    expected_brier: float
    def __init__(self, batches: _Optional[int] = ..., converged: _Optional[bool] = ..., changed_share: _Optional[float] = ..., expected_brier: _Optional[float] = ...) -> None: ...

class Calibration(_message.Message):
    __slots__ = ("rows", "coverage50", "coverage90", "coverage95", "mean_z")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COVERAGE50_FIELD_NUMBER: _ClassVar[int]
    COVERAGE90_FIELD_NUMBER: _ClassVar[int]
    COVERAGE95_FIELD_NUMBER: _ClassVar[int]
    MEAN_Z_FIELD_NUMBER: _ClassVar[int]
    rows: int
    coverage50: float
    coverage90: float
    coverage95: float
    mean_z: float
    def __init__(self, rows: _Optional[int] = ..., coverage50: _Optional[float] = ..., coverage90: _Optional[float] = ..., coverage95: _Optional[float] = ..., mean_z: _Optional[float] = ...) -> None: ...

class CreateCampaignRequest(_message.Message):
    __slots__ = ("spec", "request_id", "validate_only", "priority")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    spec: CampaignSpec
    request_id: str
    validate_only: bool
    priority: int
    def __init__(self, spec: _Optional[_Union[CampaignSpec, _Mapping]] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ..., priority: _Optional[int] = ...) -> None: ...

class CreateCampaignResponse(_message.Message):
    __slots__ = ("campaign",)
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    campaign: Campaign
    def __init__(self, campaign: _Optional[_Union[Campaign, _Mapping]] = ...) -> None: ...

class GetCampaignRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetCampaignResponse(_message.Message):
    __slots__ = ("campaign",)
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    campaign: Campaign
    def __init__(self, campaign: _Optional[_Union[Campaign, _Mapping]] = ...) -> None: ...

class ListCampaignsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "filter")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    filter: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., filter: _Optional[str] = ...) -> None: ...

class ListCampaignsResponse(_message.Message):
    __slots__ = ("campaigns", "next_page_token")
    CAMPAIGNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    campaigns: _containers.RepeatedCompositeFieldContainer[Campaign]
    next_page_token: str
    def __init__(self, campaigns: _Optional[_Iterable[_Union[Campaign, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateCampaignRequest(_message.Message):
    __slots__ = ("campaign", "update_mask")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    campaign: Campaign
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, campaign: _Optional[_Union[Campaign, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class UpdateCampaignResponse(_message.Message):
    __slots__ = ("campaign",)
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    campaign: Campaign
    def __init__(self, campaign: _Optional[_Union[Campaign, _Mapping]] = ...) -> None: ...

class DeleteCampaignRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteCampaignResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PauseCampaignRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PauseCampaignResponse(_message.Message):
    __slots__ = ("campaign",)
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    campaign: Campaign
    def __init__(self, campaign: _Optional[_Union[Campaign, _Mapping]] = ...) -> None: ...

class ResumeCampaignRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ResumeCampaignResponse(_message.Message):
    __slots__ = ("campaign",)
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    campaign: Campaign
    def __init__(self, campaign: _Optional[_Union[Campaign, _Mapping]] = ...) -> None: ...

class CancelCampaignRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class CancelCampaignResponse(_message.Message):
    __slots__ = ("campaign",)
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    campaign: Campaign
    def __init__(self, campaign: _Optional[_Union[Campaign, _Mapping]] = ...) -> None: ...

class WatchCampaignRequest(_message.Message):
    __slots__ = ("name", "after_sequence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_sequence: int
    def __init__(self, name: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class WatchCampaignResponse(_message.Message):
    __slots__ = ("sequence", "time", "changed", "progress", "note", "heartbeat")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: _timestamp_pb2.Timestamp
    changed: Campaign
    progress: Progress
    note: str
    heartbeat: Heartbeat
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., changed: _Optional[_Union[Campaign, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., note: _Optional[str] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StreamResultsRequest(_message.Message):
    __slots__ = ("name", "phase", "start_row", "follow")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    START_ROW_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    name: str
    phase: _types_pb2.Phase
    start_row: int
    follow: bool
    def __init__(self, name: _Optional[str] = ..., phase: _Optional[_Union[_types_pb2.Phase, str]] = ..., start_row: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class StreamResultsResponse(_message.Message):
    __slots__ = ("rows", "next_row")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_ROW_FIELD_NUMBER: _ClassVar[int]
    rows: _types_pb2.ResultBatch
    next_row: int
    def __init__(self, rows: _Optional[_Union[_types_pb2.ResultBatch, _Mapping]] = ..., next_row: _Optional[int] = ...) -> None: ...

class DownloadDatasetRequest(_message.Message):
    __slots__ = ("name", "offset", "length")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset: int
    length: int
    def __init__(self, name: _Optional[str] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class DownloadDatasetResponse(_message.Message):
    __slots__ = ("offset", "data", "total_bytes", "sha256")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    total_bytes: int
    sha256: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ..., total_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class PredictCampaignRequest(_message.Message):
    __slots__ = ("name", "inputs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    inputs: _types_pb2.Tensor
    def __init__(self, name: _Optional[str] = ..., inputs: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ...) -> None: ...

class PredictCampaignResponse(_message.Message):
    __slots__ = ("prediction", "outside")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    OUTSIDE_FIELD_NUMBER: _ClassVar[int]
    prediction: _types_pb2.Tensor
    outside: _types_pb2.Tensor
    def __init__(self, prediction: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., outside: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ...) -> None: ...
