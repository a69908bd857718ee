from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ElementType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ELEMENT_TYPE_UNSPECIFIED: _ClassVar[ElementType]
    ELEMENT_TYPE_FLOAT32: _ClassVar[ElementType]
    ELEMENT_TYPE_INT64: _ClassVar[ElementType]
    ELEMENT_TYPE_UINT8: _ClassVar[ElementType]

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_LHS: _ClassVar[Phase]
    PHASE_SURROGATE: _ClassVar[Phase]
    PHASE_ACTIVE: _ClassVar[Phase]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_SUCCESS: _ClassVar[Outcome]
    OUTCOME_FAILURE_QBER: _ClassVar[Outcome]
    OUTCOME_FAILURE_RECONCILIATION: _ClassVar[Outcome]
    OUTCOME_FAILURE_SECURITY: _ClassVar[Outcome]
    OUTCOME_FAILURE_TIMEOUT: _ClassVar[Outcome]
    OUTCOME_FAILURE_ERROR: _ClassVar[Outcome]
    OUTCOME_SKIPPED_INFEASIBLE: _ClassVar[Outcome]
    OUTCOME_SKIPPED_PREDICTED_FAILURE: _ClassVar[Outcome]
ELEMENT_TYPE_UNSPECIFIED: ElementType
ELEMENT_TYPE_FLOAT32: ElementType
ELEMENT_TYPE_INT64: ElementType
ELEMENT_TYPE_UINT8: ElementType
PHASE_UNSPECIFIED: Phase
PHASE_LHS: Phase
PHASE_SURROGATE: Phase
PHASE_ACTIVE: Phase
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_SUCCESS: Outcome
OUTCOME_FAILURE_QBER: Outcome
OUTCOME_FAILURE_RECONCILIATION: Outcome
OUTCOME_FAILURE_SECURITY: Outcome
OUTCOME_FAILURE_TIMEOUT: Outcome
OUTCOME_FAILURE_ERROR: Outcome
OUTCOME_SKIPPED_INFEASIBLE: Outcome
OUTCOME_SKIPPED_PREDICTED_FAILURE: Outcome

class Tensor(_message.Message):
    __slots__ = ("element_type", "shape", "data", "schema")
    ELEMENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    element_type: ElementType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    schema: str
    def __init__(self, element_type: _Optional[_Union[ElementType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., schema: _Optional[str] = ...) -> None: ...

class DesignBatch(_message.Message):
    __slots__ = ("index", "inputs")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    index: Tensor
    inputs: Tensor
    def __init__(self, index: _Optional[_Union[Tensor, _Mapping]] = ..., inputs: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class ResultBatch(_message.Message):
    __slots__ = ("index", "inputs", "metrics", "counts", "outcome", "reason")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    index: Tensor
    inputs: Tensor
    metrics: Tensor
    counts: Tensor
    outcome: Tensor
    reason: Tensor
    def __init__(self, index: _Optional[_Union[Tensor, _Mapping]] = ..., inputs: _Optional[_Union[Tensor, _Mapping]] = ..., metrics: _Optional[_Union[Tensor, _Mapping]] = ..., counts: _Optional[_Union[Tensor, _Mapping]] = ..., outcome: _Optional[_Union[Tensor, _Mapping]] = ..., reason: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Bounds(_message.Message):
    __slots__ = ("low", "high")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    low: float
    high: float
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class SpaceSpec(_message.Message):
    __slots__ = ("preset", "bounds", "blind_fraction")
    class BoundsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Bounds
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Bounds, _Mapping]] = ...) -> None: ...
    PRESET_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    BLIND_FRACTION_FIELD_NUMBER: _ClassVar[int]
    preset: str
    bounds: _containers.MessageMap[str, Bounds]
    blind_fraction: float
    def __init__(self, preset: _Optional[str] = ..., bounds: _Optional[_Mapping[str, Bounds]] = ..., blind_fraction: _Optional[float] = ...) -> None: ...

class PhysicsSpec(_message.Message):
    __slots__ = ("bound", "memory_model", "fidelity_convention", "epsilon", "claim", "device")
    BOUND_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MODEL_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_CONVENTION_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    bound: str
    memory_model: str
    fidelity_convention: str
    epsilon: float
    claim: str
    device: DeviceSpec
    def __init__(self, bound: _Optional[str] = ..., memory_model: _Optional[str] = ..., fidelity_convention: _Optional[str] = ..., epsilon: _Optional[float] = ..., claim: _Optional[str] = ..., device: _Optional[_Union[DeviceSpec, _Mapping]] = ...) -> None: ...

class DeviceSpec(_message.Message):
    __slots__ = ("round_period_ns", "fibre", "pairs", "detectors", "alignment")
    ROUND_PERIOD_NS_FIELD_NUMBER: _ClassVar[int]
    FIBRE_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    DETECTORS_FIELD_NUMBER: _ClassVar[int]
    ALIGNMENT_FIELD_NUMBER: _ClassVar[int]
    round_period_ns: float
    fibre: FibreSpec
    pairs: PairsSpec
    detectors: DetectorsSpec
    alignment: AlignmentSpec
    def __init__(self, round_period_ns: _Optional[float] = ..., fibre: _Optional[_Union[FibreSpec, _Mapping]] = ..., pairs: _Optional[_Union[PairsSpec, _Mapping]] = ..., detectors: _Optional[_Union[DetectorsSpec, _Mapping]] = ..., alignment: _Optional[_Union[AlignmentSpec, _Mapping]] = ...) -> None: ...

class FibreSpec(_message.Message):
    __slots__ = ("length_km", "attenuation_db_per_km", "insertion_loss_db")
    LENGTH_KM_FIELD_NUMBER: _ClassVar[int]
    ATTENUATION_DB_PER_KM_FIELD_NUMBER: _ClassVar[int]
    INSERTION_LOSS_DB_FIELD_NUMBER: _ClassVar[int]
    length_km: float
    attenuation_db_per_km: float
    insertion_loss_db: float
    def __init__(self, length_km: _Optional[float] = ..., attenuation_db_per_km: _Optional[float] = ..., insertion_loss_db: _Optional[float] = ...) -> None: ...

class PairsSpec(_message.Message):
    __slots__ = ("mean_pairs", "leaking_pairs", "modes", "alice_efficiency", "alice_dark")
    MEAN_PAIRS_FIELD_NUMBER: _ClassVar[int]
    LEAKING_PAIRS_FIELD_NUMBER: _ClassVar[int]
    MODES_FIELD_NUMBER: _ClassVar[int]
    ALICE_EFFICIENCY_FIELD_NUMBER: _ClassVar[int]
    ALICE_DARK_FIELD_NUMBER: _ClassVar[int]
    mean_pairs: float
    leaking_pairs: float
    modes: int
    alice_efficiency: float
    alice_dark: float
    def __init__(self, mean_pairs: _Optional[float] = ..., leaking_pairs: _Optional[float] = ..., modes: _Optional[int] = ..., alice_efficiency: _Optional[float] = ..., alice_dark: _Optional[float] = ...) -> None: ...

class DetectorsSpec(_message.Message):
    __slots__ = ("preset", "dead_time_ns", "afterpulse", "afterpulse_decay_ns", "dark_hz", "gate_ns", "imbalance", "swap")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    DEAD_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    AFTERPULSE_FIELD_NUMBER: _ClassVar[int]
    AFTERPULSE_DECAY_NS_FIELD_NUMBER: _ClassVar[int]
    DARK_HZ_FIELD_NUMBER: _ClassVar[int]
    GATE_NS_FIELD_NUMBER: _ClassVar[int]
    IMBALANCE_FIELD_NUMBER: _ClassVar[int]
    SWAP_FIELD_NUMBER: _ClassVar[int]
    preset: str
    dead_time_ns: float
    afterpulse: float
    afterpulse_decay_ns: float
    dark_hz: float
    gate_ns: float
    imbalance: float
    swap: bool
    def __init__(self, preset: _Optional[str] = ..., dead_time_ns: _Optional[float] = ..., afterpulse: _Optional[float] = ..., afterpulse_decay_ns: _Optional[float] = ..., dark_hz: _Optional[float] = ..., gate_ns: _Optional[float] = ..., imbalance: _Optional[float] = ..., swap: _Optional[bool] = ...) -> None: ...

class AlignmentSpec(_message.Message):
    __slots__ = ("x_error", "drift", "drift_amplitude", "drift_period_s")
    X_ERROR_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    DRIFT_AMPLITUDE_FIELD_NUMBER: _ClassVar[int]
    DRIFT_PERIOD_S_FIELD_NUMBER: _ClassVar[int]
    x_error: float
    drift: str
    drift_amplitude: float
    drift_period_s: float
    def __init__(self, x_error: _Optional[float] = ..., drift: _Optional[str] = ..., drift_amplitude: _Optional[float] = ..., drift_period_s: _Optional[float] = ...) -> None: ...

class ProtocolSpec(_message.Message):
    __slots__ = ("epr_source", "test_fraction", "pe_penalty", "max_decoded_frames", "time_limit_seconds", "partition", "reconciliation_failure")
    EPR_SOURCE_FIELD_NUMBER: _ClassVar[int]
    TEST_FRACTION_FIELD_NUMBER: _ClassVar[int]
    PE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    MAX_DECODED_FRAMES_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    RECONCILIATION_FAILURE_FIELD_NUMBER: _ClassVar[int]
    epr_source: str
    test_fraction: float
    pe_penalty: str
    max_decoded_frames: int
    time_limit_seconds: float
    partition: str
    reconciliation_failure: float
    def __init__(self, epr_source: _Optional[str] = ..., test_fraction: _Optional[float] = ..., pe_penalty: _Optional[str] = ..., max_decoded_frames: _Optional[int] = ..., time_limit_seconds: _Optional[float] = ..., partition: _Optional[str] = ..., reconciliation_failure: _Optional[float] = ...) -> None: ...
