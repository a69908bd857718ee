"""Result rows: what one sample yields, with its columns, dtypes and units.

In memory a batch of results is a structured array of `ROW_DTYPE`; in HDF5 and on the wire each field is an array of
its own. Floats are float32, counts int64, codes uint8.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from caligo.space import COLUMNS, DIMENSIONS


class ProtocolOutcome(enum.IntEnum):
    """How a sample ended. The stage that ends it decides; the codes are those of the contract's `Outcome`."""

    SUCCESS = 1
    FAILURE_QBER = 2
    FAILURE_RECONCILIATION = 3
    FAILURE_SECURITY = 4
    FAILURE_TIMEOUT = 5
    FAILURE_ERROR = 6
    SKIPPED_INFEASIBLE = 7
    SKIPPED_PREDICTED_FAILURE = 8

    @property
    def is_skipped(self) -> bool:
        return self >= ProtocolOutcome.SKIPPED_INFEASIBLE

    @property
    def is_physical(self) -> bool:
        """False where the row says nothing about the physics: it ran out of time or met a fault."""
        return self not in (ProtocolOutcome.FAILURE_TIMEOUT, ProtocolOutcome.FAILURE_ERROR)


class Reason(enum.IntEnum):
    """Why, under an outcome."""

    NONE = 0
    DETECTION_INTERVAL = 1
    """failure_security: the number of detections is outside its interval."""
    INSUFFICIENT_RAW = 2
    """failure_security: less raw key than one frame."""
    PREDICTED_NEGATIVE_KEY = 3
    """failure_security: after the QBER is known no key can be expected."""
    DEATH_VALLEY = 4
    """failure_security: no bit is left after reconciliation."""
    QBER_LIMIT = 5
    """failure_qber: the measured QBER is above 0.11."""
    NO_CODE = 6
    """failure_qber: no code of the pool serves the QBER."""
    NO_FRAME_VERIFIED = 7
    """failure_reconciliation: of blind, every frame was dropped."""
    TIME_LIMIT = 8
    """failure_timeout: longer than `protocol.time_limit_seconds`."""
    EXCEPTION = 9
    """failure_error: an exception inside the sample."""
    WORKER_LOST = 10
    """failure_error: the sample's worker died more often than it is retried."""
    CLOSED_FORM = 11
    """skipped_infeasible: h(QBER) is not below the rate of min-entropy."""
    GUARDRAIL = 12
    """skipped_predicted_failure: what gave the row up, closed form or classifier, `caligo show` says."""
    FRAME_LOST = 13
    """failure_reconciliation: Bob could not correct his string and ends with random bits; Alice's strings exist."""
    REFUSED_SETS = 14
    """failure_security: the sets that Bob names are unequal, overlap, or name a round that was not detected."""
    SOURCE_FAULT = 15
    """failure_error: the EPR source cannot be used, or what it made are no rounds."""


METRICS: Final[tuple[tuple[str, str], ...]] = (
    ("net_efficiency", "key bits of one string / pair"),
    ("margin", "key bits / reconciled bit"),
    ("qber", "1"),
    ("detection_rate", "detections / pair"),
    ("min_entropy_rate", "bits / reconciled bit"),
    ("leakage_rate", "bits / reconciled bit"),
    ("reconciliation_efficiency", "1"),
    ("frame_error_rate", "1"),
    ("wall_seconds", "s"),
)
"""Float32 columns with their units."""

COUNTS: Final[tuple[tuple[str, str], ...]] = (
    ("pairs", "pairs"),
    ("detected", "rounds"),
    ("sifted", "rounds a string"),
    ("test_bits", "rounds"),
    ("reconciled", "bits"),
    ("leaked", "bits"),
    ("key_length", "bits"),
    ("frames_total", "frames"),
    ("frames_failed", "frames"),
    ("frames_decoded", "frames"),
    ("removed", "rounds"),
)
"""Int64 columns with their units. New ones are added at the end."""
COUNTS_OF_RELEASE_0_1: Final = 9
"""How many of them a row of release 0.1 has."""

DESCRIPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "net_efficiency": "key bits of one string a pair; 0 unless success",
        "margin": "the claim's key bits, unrounded, per bit of one string, floored at -1: positive where Alice has two "
        "keys, and Bob one of them unless a frame was lost (frame_lost: a positive margin and no key); of other rows "
        "without a key at most 0, in closed form where nothing was counted",
        "qber": "error rate in equal bases: of the calibration slots (baseline), or the simulator's own count over all "
        "rounds, which nobody in the protocol knows (blind)",
        "detection_rate": "detected rounds a pair",
        "min_entropy_rate": "bits of one string that Bob does not know before the public ones, by the claim's finite "
        "form, per bit of it",
        "leakage_rate": "public bits about one string, tags included, per bit of it",
        "reconciliation_efficiency": "public bits without tags, per bit, over h of the simulator's own count of errors",
        "frame_error_rate": "decoded frames that stayed uncorrected, as a share of them",
        "wall_seconds": "time the sample took; the one column that differs from run to run",
        "pairs": "pairs sent",
        "detected": "rounds that Bob reports as detected",
        "sifted": "rounds of each string before the cut to whole frames",
        "test_bits": "detected calibration slots, opened by both",
        "reconciled": "bits of each string that the key is hashed from: whole frames, those dropped left out",
        "leaked": "public bits about one string, tags included",
        "key_length": "bits of each key; 0 unless success",
        "frames_total": "frames of each string",
        "frames_failed": "frames left uncorrected: of those decoded as seen, of the others as measured rates say",
        "frames_decoded": "frames that were really decoded",
        "removed": "rounds of both strings together whose removal Bob could influence after the bases were known",
    }
)
"""What each metric and each count means."""

METRIC_NAMES: Final[tuple[str, ...]] = tuple(name for name, _ in METRICS)
COUNT_NAMES: Final[tuple[str, ...]] = tuple(name for name, _ in COUNTS)
INPUT_NAMES: Final[tuple[str, ...]] = COLUMNS
METRIC: Final[dict[str, int]] = {name: j for j, name in enumerate(METRIC_NAMES)}
COUNT: Final[dict[str, int]] = {name: j for j, name in enumerate(COUNT_NAMES)}

ROW_DTYPE: Final[np.dtype[np.void]] = np.dtype(
    [
        ("index", "<i8"),
        ("inputs", "<f4", (DIMENSIONS,)),
        ("metrics", "<f4", (len(METRICS),)),
        ("counts", "<i8", (len(COUNTS),)),
        ("outcome", "u1"),
        ("reason", "u1"),
    ]
)
"""One result row; arrays of it are what moves between the parts of a process and into the journal."""

ResultRows = NDArray[np.void]
"""A structured array of `ROW_DTYPE`, shape [n]."""


@dataclasses.dataclass(slots=True)
class ProtocolResult:
    """Result of one sample; `DESCRIPTIONS` says what each value means.

    Metrics that no stage measured stay NaN, counts stay 0.
    """

    outcome: ProtocolOutcome
    reason: Reason = Reason.NONE
    net_efficiency: float = 0.0
    margin: float = math.nan
    qber: float = math.nan
    detection_rate: float = math.nan
    min_entropy_rate: float = math.nan
    leakage_rate: float = math.nan
    reconciliation_efficiency: float = math.nan
    frame_error_rate: float = math.nan
    wall_seconds: float = 0.0
    pairs: int = 0
    detected: int = 0
    sifted: int = 0
    test_bits: int = 0
    reconciled: int = 0
    leaked: int = 0
    key_length: int = 0
    frames_total: int = 0
    frames_failed: int = 0
    frames_decoded: int = 0
    removed: int = 0

    def to_row(self, index: int, inputs: NDArray[np.float32]) -> ResultRows:
        """The result as one row, shape [1], of `ROW_DTYPE`."""
        row = np.zeros(1, dtype=ROW_DTYPE)
        row["index"] = index
        row["inputs"] = inputs
        row["metrics"] = [getattr(self, name) for name in METRIC_NAMES]
        row["counts"] = [getattr(self, name) for name in COUNT_NAMES]
        row["outcome"] = self.outcome
        row["reason"] = self.reason
        return row


def code_name(codes: type[enum.IntEnum], code: int) -> str:
    """The name of an outcome, a reason or a strategy in lower case; `code_N` for one of another release."""
    return codes(code).name.lower() if code in list(codes) else f"code_{code}"


def empty_rows() -> ResultRows:
    """No rows: shape [0]."""
    return np.zeros(0, dtype=ROW_DTYPE)


def join_rows(blocks: Iterable[ResultRows]) -> ResultRows:
    """Blocks of rows as one: what `np.concatenate` does, without looking at every field of every block (12 µs each)."""
    return np.frombuffer(bytearray().join(block.tobytes() for block in blocks), dtype=ROW_DTYPE)


def rows_from_records(records: Iterable[bytes]) -> ResultRows:
    """Rows [n] from the bytes of each, as this release or an earlier one kept them; a count that it had not is 0.

    Raises:
        ValueError: bytes that no release has kept.
    """
    return np.frombuffer(b"".join(map(_record_of_today, records)), dtype=ROW_DTYPE)


def _record_of_today(record: bytes) -> bytes:
    missing = ROW_DTYPE.itemsize - len(record)
    if not missing:
        return record
    if missing != 8 * (len(COUNTS) - COUNTS_OF_RELEASE_0_1):
        raise ValueError(f"no result row has {len(record)} bytes")
    up_to_counts, codes = record[:-2], record[-2:]
    return up_to_counts + bytes(missing) + codes


def metric(rows: ResultRows, name: str) -> NDArray[np.float32]:
    """One metric column of a batch, a view, float32 [n]."""
    return rows["metrics"][:, METRIC[name]]


def count(rows: ResultRows, name: str) -> NDArray[np.int64]:
    """One count column of a batch, a view, int64 [n]."""
    return rows["counts"][:, COUNT[name]]


_WITHOUT_MARGIN: Final = (
    Reason.INSUFFICIENT_RAW,
    Reason.DETECTION_INTERVAL,
    Reason.NO_FRAME_VERIFIED,
    Reason.REFUSED_SETS,
)
"""Ends of simulated rows that have counted no margin; what their column says is the closed form's."""


def simulated(rows: ResultRows) -> NDArray[np.bool_]:
    """Rows that a simulator ended by the protocol's own decision, bool [n]."""
    return np.isin(rows["outcome"], [kind for kind in ProtocolOutcome if kind.is_physical and not kind.is_skipped])


def succeeded(rows: ResultRows) -> NDArray[np.bool_]:
    """Rows with a key, bool [n]."""
    return rows["outcome"] == ProtocolOutcome.SUCCESS


def measured(rows: ResultRows) -> NDArray[np.bool_]:
    """Simulated rows whose margin was counted, bool [n]."""
    return simulated(rows) & ~np.isin(rows["reason"], _WITHOUT_MARGIN) & np.isfinite(metric(rows, "margin"))
