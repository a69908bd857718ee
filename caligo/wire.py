"""Arrays and result rows on the wire.

Encoding copies once (array to bytes), decoding not at all: a decoded array is a read-only view of the message's
bytes. Element type, shape and schema are checked on the way in; there is no 64-bit float on the wire.
"""

from __future__ import annotations

import math
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from caligo.errors import InvalidArgument
from caligo.phases import Phase
from caligo.results import COUNTS, COUNTS_OF_RELEASE_0_1, METRICS, ROW_DTYPE, ResultRows
from caligo.space import DIMENSIONS, check_limits
from caligo.v1 import types_pb2

INPUTS: Final = "caligo.inputs/1"
METRICS_SCHEMA: Final = "caligo.metrics/1"
COUNTS_SCHEMA: Final = "caligo.counts/2"
COUNTS_SCHEMA_OF_RELEASE_0_1: Final = "caligo.counts/1"
INDEX: Final = "caligo.index/1"
CODE: Final = "caligo.code/1"
FEASIBILITY: Final = "caligo.feasibility/1"
POSTERIOR: Final = "caligo.posterior/1"
PREDICTION: Final = "caligo.prediction/1"
FAILURE: Final = "caligo.failure/1"
PROFILES: Final = "caligo.profiles/1"

CAPACITY_HEADER: Final = "caligo-capacity-bin"
"""Initial metadata of a stream of rows: a serialized `GetCapacityResponse`."""

_DTYPES: Final[dict[types_pb2.ElementType, np.dtype]] = {
    types_pb2.ELEMENT_TYPE_FLOAT32: np.dtype("<f4"),
    types_pb2.ELEMENT_TYPE_INT64: np.dtype("<i8"),
    types_pb2.ELEMENT_TYPE_UINT8: np.dtype("u1"),
}
_ELEMENT_TYPES: Final = {dtype: code for code, dtype in _DTYPES.items()}


def encode(array: NDArray, schema: str) -> types_pb2.Tensor:
    """An array of float32, int64 or uint8 as a message.

    Raises:
        TypeError: any other dtype; float64 in particular has no place on the wire.
    """
    dtype = array.dtype.newbyteorder("<")
    code = _ELEMENT_TYPES.get(dtype)
    if code is None:
        raise TypeError(f"{array.dtype} cannot be sent; float32, int64 and uint8 can")
    return types_pb2.Tensor(
        element_type=code, shape=array.shape, data=array.astype(dtype, copy=False).tobytes(), schema=schema
    )


def decode(tensor: types_pb2.Tensor, schema: str, *shape: int, field: str = "tensor") -> NDArray:
    """The array in a message, a read-only view.

    Args:
        schema: the schema it must have.
        shape: the shape it must have, -1 where any length will do.
        field: path of the tensor in its request, for the error.

    Raises:
        InvalidArgument: element type, schema, shape or length do not fit.
    """
    dtype = _DTYPES.get(tensor.element_type)
    if dtype is None:
        raise InvalidArgument(f"{field}.element_type", "float32, int64 or uint8")
    if tensor.schema != schema:
        raise InvalidArgument(f"{field}.schema", f"must be {schema!r}, not {tensor.schema!r}")
    actual = tuple(tensor.shape)
    if len(actual) != len(shape) or any(want not in (-1, got) for want, got in zip(shape, actual, strict=True)):
        raise InvalidArgument(f"{field}.shape", f"must be {list(shape)} (-1: any), not {list(actual)}")
    data = tensor.data  # each access copies
    if len(data) != dtype.itemsize * math.prod(actual):
        raise InvalidArgument(f"{field}.data", f"must hold {list(actual)} elements, holds {len(data)} bytes")
    return np.frombuffer(data, dtype=dtype).reshape(actual)


def decode_inputs(tensor: types_pb2.Tensor, field: str = "inputs") -> NDArray[np.float32]:
    """Design rows, float32 [n, 9], model coordinates within what the parameters allow.

    Raises:
        InvalidArgument: not such a matrix.
    """
    inputs = _decode(tensor, INPUTS, np.float32, -1, DIMENSIONS, field=field)
    if not np.isfinite(inputs).all():
        raise InvalidArgument(field, "every number must be finite")
    check_limits(inputs, field)
    return inputs


def _decode(tensor: types_pb2.Tensor, schema: str, dtype: type, *shape: int, field: str) -> NDArray:
    array = decode(tensor, schema, *shape, field=field)
    if array.dtype != dtype:
        raise InvalidArgument(f"{field}.element_type", f"must be {np.dtype(dtype).name}, not {array.dtype.name}")
    return array


def encode_phase(phase: Phase) -> types_pb2.Phase:
    """A phase as the contract's enum; the codes are the same."""
    return cast("types_pb2.Phase", int(phase))


def encode_design(index: NDArray[np.int64], inputs: NDArray[np.float32]) -> types_pb2.DesignBatch:
    """Design rows with their sample indices, int64 [n] and float32 [n, 9]."""
    return types_pb2.DesignBatch(index=encode(index, INDEX), inputs=encode(inputs, INPUTS))


def decode_design(batch: types_pb2.DesignBatch, field: str = "rows") -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Indices int64 [n] and rows float32 [n, 9].

    Raises:
        InvalidArgument: the message does not hold such a pair.
    """
    inputs = decode_inputs(batch.inputs, f"{field}.inputs")
    index = _decode(batch.index, INDEX, np.int64, len(inputs), field=f"{field}.index")
    if (index < 0).any():
        raise InvalidArgument(f"{field}.index", "must not be negative")
    return index, inputs


def encode_rows(rows: ResultRows) -> types_pb2.ResultBatch:
    """Result rows, a structured array [n] of `ROW_DTYPE`, as a message."""
    return types_pb2.ResultBatch(
        index=encode(rows["index"], INDEX),
        inputs=encode(rows["inputs"], INPUTS),
        metrics=encode(rows["metrics"], METRICS_SCHEMA),
        counts=encode(rows["counts"], COUNTS_SCHEMA),
        outcome=encode(rows["outcome"], CODE),
        reason=encode(rows["reason"], CODE),
    )


def decode_rows(batch: types_pb2.ResultBatch, field: str = "rows", *, any_release: bool = False) -> ResultRows:
    """Result rows from a message, a structured array [n] of `ROW_DTYPE`.

    Args:
        any_release: take those of an earlier release too, with 0 for counts that it had not. For whoever reads what is
            there; not for the services among themselves, whose rows must all be made under the same rules.

    Raises:
        InvalidArgument: a column does not fit.
    """
    index = _decode(batch.index, INDEX, np.int64, -1, field=f"{field}.index")
    n = len(index)
    rows = np.zeros(n, dtype=ROW_DTYPE)
    rows["index"] = index
    rows["inputs"] = _decode(batch.inputs, INPUTS, np.float32, n, DIMENSIONS, field=f"{field}.inputs")
    rows["metrics"] = _decode(batch.metrics, METRICS_SCHEMA, np.float32, n, len(METRICS), field=f"{field}.metrics")
    schema, counts = COUNTS_SCHEMA, len(COUNTS)
    if any_release and batch.counts.schema == COUNTS_SCHEMA_OF_RELEASE_0_1:
        schema, counts = COUNTS_SCHEMA_OF_RELEASE_0_1, COUNTS_OF_RELEASE_0_1
    rows["counts"][:, :counts] = _decode(batch.counts, schema, np.int64, n, counts, field=f"{field}.counts")
    rows["outcome"] = _decode(batch.outcome, CODE, np.uint8, n, field=f"{field}.outcome")
    rows["reason"] = _decode(batch.reason, CODE, np.uint8, n, field=f"{field}.reason")
    return rows
