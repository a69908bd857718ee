"""Rows of release 0.1, from journal and wire, have 0 for the counts that it had not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caligo import wire
from caligo.errors import InvalidArgument
from caligo.results import COUNT_NAMES, METRIC_NAMES, ROW_DTYPE, rows_from_records
from caligo.v1 import campaign_pb2, types_pb2

OLD_DTYPE = np.dtype(
    [
        ("index", "<i8"),
        ("inputs", "<f4", (9,)),
        ("metrics", "<f4", (9,)),
        ("counts", "<i8", (9,)),
        ("outcome", "u1"),
        ("reason", "u1"),
    ]
)
"""As release 0.1 had it."""
OLD_COUNTS = (
    "pairs", "detected", "sifted", "test_bits", "reconciled", "leaked", "key_length", "frames_total", "frames_failed",
)  # fmt: skip


def test_counts_are_only_ever_added_at_the_end() -> None:
    assert COUNT_NAMES[:9] == OLD_COUNTS
    assert COUNT_NAMES[9:] == ("frames_decoded", "removed")
    assert METRIC_NAMES == (
        "net_efficiency", "margin", "qber", "detection_rate", "min_entropy_rate", "leakage_rate",
        "reconciliation_efficiency", "frame_error_rate", "wall_seconds",
    )  # fmt: skip


@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=OLD_DTYPE.itemsize, max_size=OLD_DTYPE.itemsize))))
def test_records_of_both_sizes_are_rows(records: list[tuple[bool, bytes]]) -> None:
    old = np.frombuffer(b"".join(record for _, record in records), dtype=OLD_DTYPE)
    expected = np.zeros(len(old), dtype=ROW_DTYPE)
    for name in OLD_DTYPE.names or ():
        (expected["counts"][:, :9] if name == "counts" else expected[name])[...] = old[name]
    kept = [row.tobytes() if is_new else record for row, (is_new, record) in zip(expected, records, strict=True)]
    assert rows_from_records(kept).tobytes() == expected.tobytes()


def test_a_record_of_another_size_is_none() -> None:
    with pytest.raises(ValueError, match="155 bytes"):
        rows_from_records([bytes(155)])


@pytest.mark.parametrize(("phase", "rows"), [("lhs", 20), ("active", 8)])
def test_rows_that_went_over_the_wire_are_read_by_whoever_reads_what_is_there(assets, phase: str, rows: int) -> None:
    answer = campaign_pb2.StreamResultsResponse.FromString((assets / f"messages/results-{phase}-0.bin").read_bytes())
    read = wire.decode_rows(answer.rows, any_release=True)
    assert read["index"].tolist() == list(range(rows))
    assert not read["counts"][:, 9:].any()
    assert np.array_equal(read["counts"][:, :9], wire.decode(answer.rows.counts, "caligo.counts/1", rows, 9))
    for name in ("inputs", "metrics"):
        assert read[name].tobytes() == getattr(answer.rows, name).data
    assert read["outcome"].tobytes() == answer.rows.outcome.data


def test_no_service_takes_rows_that_another_release_has_made(assets) -> None:
    """A simulator that was not upgraded would mix its rules into a campaign under a claim."""
    answer = campaign_pb2.StreamResultsResponse.FromString((assets / "messages/results-lhs-0.bin").read_bytes())
    with pytest.raises(InvalidArgument, match=r"^rows\.counts\.schema: must be 'caligo\.counts/2'"):
        wire.decode_rows(answer.rows)


def test_counts_of_a_release_to_come_are_refused_by_name() -> None:
    batch = wire.encode_rows(np.zeros(2, dtype=ROW_DTYPE))
    batch.counts.CopyFrom(types_pb2.Tensor(schema="caligo.counts/3", element_type=2, shape=(2, 12), data=bytes(192)))
    with pytest.raises(InvalidArgument, match="counts/3"):
        wire.decode_rows(batch, any_release=True)
