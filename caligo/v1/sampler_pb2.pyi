from caligo.v1 import types_pb2 as _types_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamDesignRequest(_message.Message):
    __slots__ = ("space", "physics", "seed", "size", "start", "count", "chunk_rows")
    SPACE_FIELD_NUMBER: _ClassVar[int]
    PHYSICS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_ROWS_FIELD_NUMBER: _ClassVar[int]
    space: _types_pb2.SpaceSpec
    physics: _types_pb2.PhysicsSpec
    seed: int
    size: int
    start: int
    count: int
    chunk_rows: int
    def __init__(self, space: _Optional[_Union[_types_pb2.SpaceSpec, _Mapping]] = ..., physics: _Optional[_Union[_types_pb2.PhysicsSpec, _Mapping]] = ..., seed: _Optional[int] = ..., size: _Optional[int] = ..., start: _Optional[int] = ..., count: _Optional[int] = ..., chunk_rows: _Optional[int] = ...) -> None: ...

class StreamDesignResponse(_message.Message):
    __slots__ = ("rows", "feasibility_margin")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FEASIBILITY_MARGIN_FIELD_NUMBER: _ClassVar[int]
    rows: _types_pb2.DesignBatch
    feasibility_margin: _types_pb2.Tensor
    def __init__(self, rows: _Optional[_Union[_types_pb2.DesignBatch, _Mapping]] = ..., feasibility_margin: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ...) -> None: ...

class CheckFeasibilityRequest(_message.Message):
    __slots__ = ("physics", "inputs")
    PHYSICS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    physics: _types_pb2.PhysicsSpec
    inputs: _types_pb2.Tensor
    def __init__(self, physics: _Optional[_Union[_types_pb2.PhysicsSpec, _Mapping]] = ..., inputs: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ...) -> None: ...

class CheckFeasibilityResponse(_message.Message):
    __slots__ = ("feasibility_margin",)
    FEASIBILITY_MARGIN_FIELD_NUMBER: _ClassVar[int]
    feasibility_margin: _types_pb2.Tensor
    def __init__(self, feasibility_margin: _Optional[_Union[_types_pb2.Tensor, _Mapping]] = ...) -> None: ...
