"""What reconciliation discloses a bit, over arrays: the tables of `efficiency` for NumPy and PyTorch, and how much one
frame of the blind protocol differs from another."""

from functools import cache
from math import log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .efficiency import BLIND_EFFICIENCY, FRAMES, LEAST_LEAKAGE, QBER, baseline_efficiency
from .entropy_arrays import binary_entropy

# fmt: off
BLIND_DEVIATION = (
    (0.00004, 0.00006, 0.00013, 0.00049, 0.00021, 0.00131, 0.00421, 0.00271, 0.00625,
     0.00571, 0.01598, 0.0168, 0.01746, 0.01725, 0.01819, 0.01904, 0.01777, 0.01839),
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.00191, 0.00278, 0.00111, 0.00462,
     0.00474, 0.00373, 0.00352, 0.00547, 0.00439, 0.00625, 0.00578, 0.00633, 0.00428),
)
"""By frame size and point of efficiency.QBER: standard deviation, from frame to frame, of the public bits per bit of a
frame of the blind protocol."""
# fmt: on

_LN10 = log(10.0)
_BLIND_ROW = len(FRAMES)
_POINTS = len(QBER)


class Place(NamedTuple):
    """Where error rates lie in the tables."""

    q: Any
    """The error rate, at most 1/2."""
    entropy: Any
    """Its binary entropy."""
    index: Any
    """Of the point of the table below."""
    weight: Any
    """Of the point above."""


def place(q: Any, xp: Any) -> Place:
    """Where an array of error rates lies in the tables, which are constant outside their points."""
    points = xp.asarray(_log_points(), dtype=xp.float64)
    at = xp.log(xp.clip(q, QBER[0], QBER[-1]))
    index = sum((q >= point for point in QBER[2:-1]), 0 + (q >= QBER[1]))  # quicker than a search
    low = xp.take(points, index)
    weight = (at - low) / (xp.take(points, index + 1) - low)
    q = xp.clip(q, None, 0.5)
    return Place(q, binary_entropy(q, xp), index, weight)


class Rows(NamedTuple):
    """Which rows of a table are meant: by the number of frames, or that of the blind protocol."""

    start: Any
    """Of the row, in the flattened table."""
    along: Any
    """Weight of the next row."""


def rows(frames: Any, is_blind: Any, xp: Any) -> Rows:
    """frames: of one string, at least 1; is_blind: which are of the blind protocol."""
    along = xp.clip(xp.log(frames) / _LN10, 0.0, len(FRAMES) - 1.0)
    row = sum((frames >= number for number in FRAMES[2:-1]), 0 + (frames >= FRAMES[1]))
    start = xp.where(is_blind, _BLIND_ROW + 0 * row, row) * _POINTS
    return Rows(start, xp.where(is_blind, 0.0 * along, along - row))


def leakage_rate(at: Place, of: Rows, size: int, failure: float, xp: Any) -> Any:
    """prediction.expected_leakage_rate of arrays at the error rates that decide it: public bits per reconciled bit.

    size: place in efficiency.FRAME_SIZES.
    """
    table = xp.asarray(_log_efficiency(failure)[size], dtype=xp.float64)
    first = of.start + at.index
    low, high = (
        (below := xp.take(table, first + offset)) + at.weight * (xp.take(table, first + (offset + 1)) - below)
        for offset in (0, _POINTS)
    )
    return xp.clip(xp.exp(low + of.along * (high - low)) * at.entropy, LEAST_LEAKAGE[size], 1.0)


def blind_deviation(at: Place, size: int, xp: Any) -> Any:
    """BLIND_DEVIATION between its points, linear in the logarithm of the error rate."""
    table = xp.asarray(BLIND_DEVIATION[size], dtype=xp.float64)
    low = xp.take(table, at.index)
    return low + at.weight * (xp.take(table, at.index + 1) - low)


@cache
def _log_points() -> NDArray[np.float64]:
    return np.log(np.array(QBER))


@cache
def _log_efficiency(failure: float) -> NDArray[np.float64]:
    """ln f [size, rows * points] at one failure probability: the baseline's by frames, then twice that of the blind."""
    sizes = ((4096, BLIND_EFFICIENCY[0]), (65536, BLIND_EFFICIENCY[1]))
    return np.array(
        [
            np.log([*([baseline_efficiency(q, n, failure, size) for q in QBER] for n in FRAMES), blind, blind]).ravel()
            for size, blind in sizes
        ]
    )
