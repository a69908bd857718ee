"""Result rows: dtypes, and a result as a row."""

from __future__ import annotations

import numpy as np

from caligo.results import ROW_DTYPE, ProtocolOutcome, ProtocolResult, Reason, count, empty_rows, join_rows, metric


def test_rows_hold_float32_int64_and_codes_only() -> None:
    base = {name: ROW_DTYPE[name].base for name in ROW_DTYPE.names or ()}
    assert base == {
        "index": np.int64, "inputs": np.float32, "metrics": np.float32, "counts": np.int64,
        "outcome": np.uint8, "reason": np.uint8,
    }  # fmt: skip
    assert ROW_DTYPE.itemsize == 8 + 4 * 9 + 4 * 9 + 8 * 11 + 2  # no padding: the journal keeps rows as they are
    assert len(empty_rows()) == 0


def test_a_result_becomes_a_row() -> None:
    inputs = np.arange(9, dtype=np.float32)
    result = ProtocolResult(
        ProtocolOutcome.SUCCESS, net_efficiency=0.125, margin=0.25, qber=0.01, pairs=2**40, key_length=7
    )
    row = result.to_row(2**40, inputs)
    assert (row.dtype, row.shape) == (ROW_DTYPE, (1,))
    assert (row["index"][0], row["outcome"][0], row["reason"][0]) == (2**40, 1, Reason.NONE)
    np.testing.assert_array_equal(row["inputs"][0], inputs)
    assert (metric(row, "margin")[0], metric(row, "qber")[0]) == (0.25, np.float32(0.01))
    assert (count(row, "pairs")[0], count(row, "key_length")[0], count(row, "leaked")[0]) == (2**40, 7, 0)
    assert np.isnan(metric(row, "frame_error_rate")[0])


def test_metric_is_a_view() -> None:
    row = ProtocolResult(ProtocolOutcome.SUCCESS).to_row(0, np.zeros(9, dtype=np.float32))
    metric(row, "margin")[:] = 0.5
    assert row["metrics"][0, 1] == 0.5


def test_kinds_of_outcome() -> None:
    assert [o for o in ProtocolOutcome if o.is_skipped] == [
        ProtocolOutcome.SKIPPED_INFEASIBLE,
        ProtocolOutcome.SKIPPED_PREDICTED_FAILURE,
    ]
    assert [o for o in ProtocolOutcome if not o.is_physical] == [
        ProtocolOutcome.FAILURE_TIMEOUT,
        ProtocolOutcome.FAILURE_ERROR,
    ]


def test_blocks_are_joined_as_numpy_joins_them() -> None:
    rows = np.zeros(7, dtype=ROW_DTYPE)
    rows["index"] = np.arange(7)
    rows["metrics"] = np.arange(63).reshape(7, 9)
    joined = join_rows([rows[:3], rows[3:3], rows[3::2], rows[4:5]])
    np.testing.assert_array_equal(joined, np.concatenate([rows[:3], rows[3::2], rows[4:5]]))
    joined["index"] = 0  # it is the caller's own
    assert len(join_rows([])) == 0
