"""Arrays and rows on the wire: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from caligo import wire
from caligo.errors import InvalidArgument
from caligo.results import ROW_DTYPE
from caligo.space import PRESETS, Space
from caligo.v1 import types_pb2

DTYPES = st.sampled_from([np.dtype("<f4"), np.dtype("<i8"), np.dtype("u1")])
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6)


@given(DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)), st.text(max_size=20))
def test_any_array_comes_back_bit_for_bit(array: np.ndarray, schema: str) -> None:
    message = types_pb2.Tensor.FromString(wire.encode(array, schema).SerializeToString())
    back = wire.decode(message, schema, *array.shape)
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()  # NaN payloads and the sign of zero too
    assert not back.flags.writeable


@given(hnp.arrays(np.float32, (4, 6)))
def test_views_and_big_endian_arrays_are_sent_as_they_read(array: np.ndarray) -> None:
    for view in (array.T, array[::2], array[:, ::-1], array.astype(">f4")):
        back = wire.decode(wire.encode(view, "s"), "s", -1, -1)
        np.testing.assert_array_equal(back, view)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint64, np.bool_, object])
def test_other_element_types_are_not_sent(dtype: type) -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        wire.encode(np.zeros(3, dtype=dtype), wire.INPUTS)


def inputs(rows: int = 2) -> np.ndarray:
    unit = np.linspace(0, 1, 9 * rows, dtype=np.float32).reshape(rows, 9)
    return Space(PRESETS["cliff"]).from_unit(unit)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schema": "caligo.inputs/2"}, "inputs.schema"),
        ({"schema": ""}, "inputs.schema"),
        ({"shape": [9, 2]}, "inputs.shape"),
        ({"shape": [18]}, "inputs.shape"),
        ({"shape": [3, 9]}, "inputs.data"),
        ({"shape": [2**31, 9]}, "inputs.data"),
        ({"data": b""}, "inputs.data"),
        ({"data": bytes(73)}, "inputs.data"),
        ({"element_type": types_pb2.ELEMENT_TYPE_UNSPECIFIED}, "inputs.element_type"),
        ({"element_type": 99}, "inputs.element_type"),
        ({"element_type": types_pb2.ELEMENT_TYPE_UINT8, "data": bytes(18)}, "inputs.element_type"),
        ({"data": inputs().tobytes()[:-4] + np.float32(np.nan).tobytes()}, "inputs"),
        ({"data": inputs().tobytes()[:-4] + np.float32(np.inf).tobytes()}, "inputs"),
    ],
)
def test_what_does_not_fit_is_refused_by_field(change: dict, field: str) -> None:
    tensor = wire.encode(inputs(), wire.INPUTS)
    for name, value in change.items():
        if name == "shape":
            del tensor.shape[:]
            tensor.shape.extend(value)
        else:
            setattr(tensor, name, value)
    with pytest.raises(InvalidArgument) as caught:
        wire.decode_inputs(tensor)
    assert caught.value.violations[0].field == field


@given(st.integers(0, 5).flatmap(lambda n: hnp.arrays(ROW_DTYPE, n)))
def test_result_rows_come_back(rows: np.ndarray) -> None:
    message = types_pb2.ResultBatch.FromString(wire.encode_rows(rows).SerializeToString())
    assert wire.decode_rows(message).tobytes() == rows.tobytes()


@given(st.integers(0, 5))
def test_design_comes_back(n: int) -> None:
    index = np.arange(n, dtype=np.int64) * 2**40
    batch = wire.encode_design(index, inputs(n))
    back_index, back_inputs = wire.decode_design(batch)
    np.testing.assert_array_equal(back_index, index)
    np.testing.assert_array_equal(back_inputs, inputs(n))


def test_columns_of_a_batch_must_agree() -> None:
    batch = wire.encode_rows(np.zeros(3, dtype=ROW_DTYPE))
    batch.outcome.CopyFrom(wire.encode(np.zeros(2, dtype=np.uint8), wire.CODE))
    with pytest.raises(InvalidArgument, match=r"rows\.outcome\.shape"):
        wire.decode_rows(batch)
    design = wire.encode_design(np.array([0, -1]), inputs())
    with pytest.raises(InvalidArgument, match=r"rows\.index: must not be negative"):
        wire.decode_design(design)
    design.index.CopyFrom(wire.encode(np.zeros(3, dtype=np.int64), wire.INDEX))
    with pytest.raises(InvalidArgument, match=r"rows\.index\.shape"):
        wire.decode_design(design)
