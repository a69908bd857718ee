from caligo.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SimulateSetup(_message.Message):
    __slots__ = ("campaign", "seed", "phase", "physics", "protocol")
    CAMPAIGN_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PHYSICS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    campaign: str
    seed: int
    phase: _types_pb2.Phase
    physics: _types_pb2.PhysicsSpec
    protocol: _types_pb2.ProtocolSpec
    def __init__(self, campaign: _Optional[str] = ..., seed: _Optional[int] = ..., phase: _Optional[_Union[_types_pb2.Phase, str]] = ..., physics: _Optional[_Union[_types_pb2.PhysicsSpec, _Mapping]] = ..., protocol: _Optional[_Union[_types_pb2.ProtocolSpec, _Mapping]] = ...) -> None: ...

class SimulateRequest(_message.Message):
    __slots__ = ("setup", "rows", "withdrawn", "job")
    SETUP_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    setup: SimulateSetup
    rows: _types_pb2.DesignBatch
    withdrawn: _types_pb2.Tensor
    job: int
    def __init__(self, setup: _Optional[_Union[SimulateSetup, _Mapping]] = ..., rows: _Optional[_Union[_types_pb2.DesignBatch, _Mapping]] = ..., withdrawn: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ..., job: _Optional[int] = ...) -> None: ...

class SimulateResponse(_message.Message):
    __slots__ = ("results", "job")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    results: _types_pb2.ResultBatch
    job: int
    def __init__(self, results: _Optional[_Union[_types_pb2.ResultBatch, _Mapping]] = ..., job: _Optional[int] = ...) -> None: ...

class GetCapacityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCapacityResponse(_message.Message):
    __slots__ = ("workers", "slots", "slot_bytes", "max_rows_in_flight", "epr_sources", "epr_source_versions")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    SLOT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    EPR_SOURCES_FIELD_NUMBER: _ClassVar[int]
    EPR_SOURCE_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    workers: int
    slots: int
    slot_bytes: int
    max_rows_in_flight: int
    epr_sources: _containers.RepeatedScalarFieldContainer[str]
    epr_source_versions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, workers: _Optional[int] = ..., slots: _Optional[int] = ..., slot_bytes: _Optional[int] = ..., max_rows_in_flight: _Optional[int] = ..., epr_sources: _Optional[_Iterable[str]] = ..., epr_source_versions: _Optional[_Iterable[str]] = ...) -> None: ...
